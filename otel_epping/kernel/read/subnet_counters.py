# SPDX-License-Identifier: Apache-2.0
"""Reads all counts of slots except the counts of RTTs. Each row gets one record of 64-bit counters.

The counts are in two maps of the program (bpf/maps.h). `traffic` has one row per slot and CPU. `flow_counters` has one
row per slot, which all CPUs share.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, Indexes, Records, Words, spread
from otel_epping.kernel.count_table import CounterTable
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.flow_table import FlowTable

_UNUSED = "unused"
_WORD = np.dtype(np.uint64)
_HALF = np.dtype(np.uint32)
_TALLIES = ("classes",)
_ECN = ("ecn_from", "ecn_to")
_SILENCE = "silence"


def _fields(array: Array, excluded: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, array.dtype[name]) for name in array.dtype.names or () if name not in excluded]


def _columns(struct: np.dtype[Any], names: tuple[str, ...], number: np.dtype[Any]) -> slice:
    """Views the struct as an array of the type `number`.

    Returns the columns of the given fields, which must be adjacent.
    """
    assert struct.fields is not None
    begin, end = struct.fields[names[0]][1], struct.fields[names[-1]][1] + struct[names[-1]].itemsize
    assert end - begin == sum(struct[name].itemsize for name in names), f"{names} are not adjacent"
    return slice(begin // number.itemsize, end // number.itemsize)


def _sum_over_cpus(numbers: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Sums an array of the shape (rows, cpus, columns) over CPUs.

    Adding one CPU after the other takes half the time of numpy's sum().
    """
    out[...] = numbers[:, 0]
    for cpu in range(1, numbers.shape[1]):
        out += numbers[:, cpu]


def _extend(seen: Counts, counters: Words) -> None:
    """Updates 64-bit counters in place from the program's 32-bit counters, which may have wrapped around."""
    new = counters - seen.astype(_HALF)
    if new.any():  # most networks have no ECN, and most subnets have no new events
        seen += new


def packets_of(records: Records) -> Counts:
    """Returns the number of packets from and to each row's subnet, added up over all classes. The shape is (rows,)."""
    classes = records["classes"]
    return np.asarray(classes["from"]["packets"].sum(axis=1) + classes["to"]["packets"].sum(axis=1))


def packet_columns(record: np.dtype[Any]) -> Indexes:
    """Returns the columns of counters that packets_of() adds up."""
    columns: Records = np.arange(record.itemsize // _WORD.itemsize).view(record)
    classes = columns["classes"]
    return np.concatenate([classes[way]["packets"].ravel() for way in ("from", "to")]).astype(np.int64)


class SubnetCounters:
    """Reads counters into a table of counts. The counters of a row are a record of the type `dtype`, with these fields:

    classes              (classes,) packets and bytes, from the subnet and to the subnet
    ecn_from, ecn_to     (3,) packets by ECN code point, 1 to 3
    retransmitted...     the fields of the program's struct flow_counters
    silence              number of ends of flows that ended in silence; each flow has two ends
    """

    def __init__(self, traffic: Array, flow_counters: Array, cpus: int) -> None:
        self._traffic, self._flow_counters, self._cpus = traffic, flow_counters, cpus
        ecn = [(name, np.uint64, traffic.dtype[name].shape) for name in _ECN]
        events = [(name, np.uint64, each.shape) for name, each in _fields(flow_counters, ())]
        self.dtype = np.dtype([*_fields(traffic, (_UNUSED, *_ECN)), *ecn, *events, (_SILENCE, np.uint64)])

    def empty_table(self) -> CounterTable:
        """Returns a table without rows. A row can store a record of the type `dtype`."""
        return CounterTable.empty(self.dtype.itemsize // _WORD.itemsize)

    def zero(self) -> Counts:
        """Returns a row of counters that are all 0. The shape is (counters,)."""
        return np.zeros(self.dtype.itemsize // _WORD.itemsize, np.uint64)

    def sum_of(self, slots: Indexes) -> Counts:
        """Returns the sum of all counts of the given slots, as a row of counters.

        The program must not use these slots any more.

        Each flow of these slots that is still open is counted as ended in silence.
        """
        total, slots = self.zero(), np.sort(slots)
        for begin, end in self._traffic.parts((int(slots[-1]) + 1 if len(slots) else 0) * self._cpus, self._cpus):
            first, last = np.searchsorted(slots, (begin // self._cpus, end // self._cpus))
            if first < last:
                total += self._sum_of_part(slots[first:last])
        return total

    def _sum_of_part(self, slots: Indexes) -> Counts:
        counters = np.zeros((len(slots), len(self.zero())), np.uint64)
        begin, end = int(slots[0]), int(slots[-1]) + 1
        traffic = self._traffic.rows(begin * self._cpus, end * self._cpus)
        self._add_traffic(traffic[spread(slots - begin, self._cpus)], counters)
        self._add_events(self._flow_counters.rows(begin, end)[slots - begin], counters)
        records = counters.view(self.dtype)[:, 0]
        open_ends = records["opened"].sum(axis=1) - records["closed"].sum(axis=1)
        records[_SILENCE] = np.maximum(open_ends.view(np.int64), 0).view(np.uint64)
        return np.asarray(counters.sum(axis=0, dtype=np.uint64))

    def records(self, counts: CounterTable) -> Records:
        """Returns the counters of a table as records. The result is a view of the shape (rows,)."""
        return counts.counters.view(self.dtype)[:, 0]

    def _read_traffic(self, counters: Counts) -> None:
        cpus = self._cpus
        for begin, window in self._traffic.windows(len(counters) * cpus, cpus):
            self._add_traffic(window, counters[begin // cpus :][: len(window) // cpus])

    def _add_traffic(self, window: Records, part: Counts) -> None:
        """Updates the counters of traffic in `part` from `window`.

        `window` has one row per slot and CPU, and `part` has one row per slot.
        """
        struct = self._traffic.dtype
        tallies, ecn = _columns(struct, _TALLIES, _WORD), _columns(struct, _ECN, _HALF)
        words = window.view(_WORD).reshape(len(part), self._cpus, -1)
        _sum_over_cpus(words[..., tallies], part[:, _columns(self.dtype, _TALLIES, _WORD)])
        seen = part[:, _columns(self.dtype, _ECN, _WORD)]
        total: Words = np.empty(seen.shape, _HALF)
        _sum_over_cpus(words.view(_HALF)[..., ecn], total)
        _extend(seen, total)

    def _read_flow_counters(self, counters: Counts) -> None:
        for begin, window in self._flow_counters.windows(len(counters)):
            self._add_events(window, counters[begin : begin + len(window)])

    def _add_events(self, window: Records, part: Counts) -> None:
        """Updates the counters of TCP events in `part` from `window`. Both arrays have one row per slot."""
        columns = _columns(self.dtype, self._flow_counters.dtype.names or (), _WORD)
        _extend(part[:, columns], window.view(_HALF).reshape(len(part), -1))

    def read(self, counts: CounterTable, flows: FlowTable, since: Words) -> tuple[Counts, int]:
        """Reads the counters of the first len(since) rows into a table that already has these rows.

        since  (rows,) the parameter of FlowTable.active()

        Returns the number of ends of active flows for each row, in an array of the shape (rows,). Also returns the
        number of entries in the flow table. Raises OSError.
        """
        counters = counts.counters[: len(since)]
        self._read_flow_counters(counters)
        # Counters are read before the flow table is scanned. If a flow opens between the counter read and the table
        # scan, the flow is counted as active but not as opened, and `silence` does not change. If a flow closes between
        # the counter read and the table scan, the flow is counted as ended in silence. This race is benign: `silence`
        # is too high by one for each end of the flow. But the next flow that really ends in silence does not increase
        # `silence`, so the error does not grow.
        found, entries = flows.active(since)
        records = self.records(counts)[: len(since)]
        opened, closed, silence = (records[name] for name in ("opened", "closed", _SILENCE))
        open_ends = (opened[:, 0] + opened[:, 1] - closed[:, 0] - closed[:, 1]).view(np.int64)
        if found is not None:
            np.maximum(silence, np.maximum(open_ends - found.view(np.int64), 0).view(np.uint64), out=silence)
        active = np.maximum(open_ends - silence.view(np.int64), 0).view(np.uint64) if found is None else found
        self._read_traffic(counters)
        return active, entries
