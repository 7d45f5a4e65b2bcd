# SPDX-License-Identifier: Apache-2.0
"""All that is counted for a subnet but its RTTs, as one record of 64-bit numbers for each slot.

They come from `traffic`, which has a row for each CPU, and from `flow_counters`, which all CPUs share (bpf/maps.h).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, grow
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.flow_table import FlowTable

_UNUSED = "unused"
_WORD = np.dtype(np.uint64)
_HALF = np.dtype(np.uint32)
_TALLIES = ("classes",)
_ECN = ("ecn_from", "ecn_to")
_SILENCE = "silence"


def _wide(array: Array, left_out: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, array.dtype[name]) for name in array.dtype.names or () if name not in left_out]


def _columns(struct: np.dtype[Any], names: tuple[str, ...], number: np.dtype[Any]) -> slice:
    """Where fields that lie together are, if the struct is taken for an array of one kind of number."""
    assert struct.fields is not None
    begin, end = struct.fields[names[0]][1], struct.fields[names[-1]][1] + struct[names[-1]].itemsize
    assert end - begin == sum(struct[name].itemsize for name in names), f"{names} don't lie together"
    return slice(begin // number.itemsize, end // number.itemsize)


def _sum_over_cpus(numbers: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Adds up (rows, cpus, columns); CPU by CPU, which takes half the time of numpy's sum()."""
    out[...] = numbers[:, 0]
    for cpu in range(1, numbers.shape[1]):
        out += numbers[:, cpu]


class SubnetCounters:
    """One reader's account of the counters. `dtype` is that of a record:

    classes              (classes,) from and to, packets and bytes each
    ecn_from, ecn_to     (3,) packets by ECN code point, 1 to 3
    retransmitted...     fields of the program's struct flow_counters
    silence              ends of flows that ended in silence
    """

    def __init__(self, traffic: Array, flow_counters: Array, flows: FlowTable, cpus: int) -> None:
        self._traffic, self._flow_counters, self._flows, self._cpus = traffic, flow_counters, flows, cpus
        ecn = [(name, np.uint64, traffic.dtype[name].shape) for name in _ECN]
        self.dtype = np.dtype(
            [*_wide(traffic, (_UNUSED, *_ECN)), *ecn, *_wide(flow_counters, ()), (_SILENCE, np.uint64)]
        )
        self._records = np.zeros(0, self.dtype)

    def _read_traffic(self, rows: int) -> None:
        struct, cpus = self._traffic.dtype, self._cpus
        tallies, ecn = _columns(struct, _TALLIES, _WORD), _columns(struct, _ECN, _HALF)
        for begin, window in self._traffic.windows(rows * cpus, cpus):
            records = self._numbers(begin // cpus, len(window) // cpus)
            words = window.view(_WORD).reshape(len(records), cpus, -1)
            _sum_over_cpus(words[..., tallies], records[:, _columns(self.dtype, _TALLIES, _WORD)])
            # 32 bits, which may have wrapped around, so the difference is taken modulo 2^32.
            seen = records[:, _columns(self.dtype, _ECN, _WORD)]
            total = np.empty(seen.shape, _HALF)
            _sum_over_cpus(words.view(_HALF)[..., ecn], total)
            new = total - seen.astype(_HALF)
            if new.any():  # as in few networks: a third of the time here
                seen += new

    def _read_flow_counters(self, rows: int) -> None:
        columns = _columns(self.dtype, self._flow_counters.dtype.names or (), _WORD)
        for begin, window in self._flow_counters.windows(rows):
            self._numbers(begin, len(window))[:, columns] = window.view(_WORD).reshape(len(window), -1)

    def _numbers(self, begin: int, rows: int) -> Counts:
        """Some records as (rows, columns)."""
        return self._records[begin : begin + rows].view(_WORD).reshape(rows, -1)

    def forget(self, rows: npt.NDArray[np.int64]) -> None:
        """Some rows, of those that were read, are somebody else's, and count from 0."""
        self._records[rows] = np.zeros(1, self.dtype)

    def read(self, since: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[Any], Counts, int]:
        """Records of the first slots; how many ends of active flows each has; places taken in the flow table.

        `since` as for FlowTable.active(). Records are good until the next reading.
        """
        rows = len(since)
        self._records = grow(self._records, rows)
        self._read_flow_counters(rows)
        # In this order: a flow that opens in between is active and not yet opened, and none seems to have ended. One
        # that closes in between seems to have ended in silence, until the next does: the count only ever grows.
        found, taken = self._flows.active(since)
        opened, closed, silence = (self._records[name] for name in ("opened", "closed", _SILENCE))
        left = (opened[:, 0] + opened[:, 1] - closed[:, 0] - closed[:, 1]).view(np.int64)
        if found is not None:
            np.maximum(silence, np.maximum(left - found.view(np.int64), 0).view(np.uint64), out=silence)
        active = np.maximum(left - silence.view(np.int64), 0).view(np.uint64) if found is None else found
        self._read_traffic(rows)
        return self._records, active, taken
