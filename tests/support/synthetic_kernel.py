# SPDX-License-Identifier: Apache-2.0
"""Makes readings without a kernel program. Subnets claim slots, answer, and lose their slots to other subnets.

SyntheticKernel     the tables of the program, and the readings of any number of readers
SyntheticCollector  the part of EppingCollector that EppingMetricProducer uses
"""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np

from otel_epping.kernel import buckets
from otel_epping.kernel.arrays import Counts
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import (
    OVERFLOW_HISTOGRAM,
    OVERFLOW_SLOT,
    SHARED_SLOTS,
    UNANSWERED_SLOT,
    Reading,
    RttTable,
)
from otel_epping.networks.network import Networks
from tests.support.many_subnets import IO, PACKETS, RTT_NS, RTTS, address_of
from tests.support.readings import runs_of

STARTED_NS = 10**9
KEY = np.dtype(
    [
        ("prefix", [("half", "u8", (2,))]),
        ("interface", "u2"),
        ("family", "u1"),
        ("side", "u1"),
        ("shorter", "u1"),
        ("zero", "u1", (3,)),
    ]
)
SLOT = np.dtype([("key", KEY), ("created_ns", "u8"), ("state", "u8")])
_CLASS = [("packets", "u8"), ("bytes", "u8")]
COUNTERS = np.dtype(
    [
        ("classes", [("from", _CLASS), ("to", _CLASS)], (5,)),
        ("ecn_from", "u8", (3,)),
        ("ecn_to", "u8", (3,)),
        *((name, "u8", (2,)) for name in ("retransmitted", "out_of_order", "zero_window", "opened", "closed")),
        ("silence", "u8"),
    ]
)
_WAY = [("packets", "u8", (7,)), ("bytes", "u8", (7,))]
_OUTCOMES = ("begun", "not_begun", "expired", "superseded", "repeated", "abandoned", "measured")
INTERFACE_COUNTERS = np.dtype(
    [
        ("received", _WAY),
        ("transmitted", _WAY),
        ("ecn", "u8", (4,)),
        ("flows_created", "u8"),
        *((f"rtt_{outcome}", "u8") for outcome in _OUTCOMES),
        ("timestamp_fault", "u8", (3,)),
        ("duplicates", "u8"),
        ("rtt_clamped", "u8", (2,)),
        ("flow_insert_failed", "u8"),
        ("subnet_insert_failed", "u8"),
    ]
)


def key_of(subnet: int) -> Any:
    """Return the key of a numbered subnet (many_subnets.py)."""
    key = np.zeros((), KEY)
    mapped = b"\0" * 10 + b"\xff\xff" + address_of(subnet)[:3] + b"\0"
    key["prefix"]["half"] = np.frombuffer(mapped, "u8")
    key["family"] = 4
    return key


class SyntheticReader:
    """One reader of a SyntheticKernel."""

    slots_dtype, counters_dtype, interfaces_dtype = SLOT, COUNTERS, INTERFACE_COUNTERS

    def __init__(self, kernel: "SyntheticKernel") -> None:
        self.kernel = kernel
        self.delivered: Any = None
        self.min_ns, self.max_ns = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.reset(np.arange(len(kernel.methods)))

    def reset(self, histograms: Any) -> None:
        missing = len(self.kernel.methods) - len(self.min_ns)
        self.min_ns = np.append(self.min_ns, np.zeros(missing, np.uint64))
        self.max_ns = np.append(self.max_ns, np.zeros(missing, np.uint64))
        self.min_ns[histograms], self.max_ns[histograms] = NO_MIN_NS, 0

    def read(self) -> Reading:
        return self.kernel.read(self)


class SyntheticKernel:
    """The tables of the program. A claimed slot or histogram can have any free number.

    truth  the totals of all packets, bytes and RTTs, as in many_subnets.py
    """

    def __init__(self, config: EppingConfig, rows: int = 12, histograms: int = 20, newcomers: int = 4) -> None:
        self.config, self.now_ns, self.truth, self.unanswered = config, STARTED_NS, Counter[str](), 0
        self.max_newcomers = newcomers
        self.slots = np.zeros(rows, SLOT)
        self.created_ns = np.zeros(rows, np.int64)
        self.owners, self.answered = np.zeros(rows, np.uint32), np.zeros(rows, np.bool_)
        self.counters = np.zeros(rows, COUNTERS)
        self.active = np.zeros(rows, np.uint64)
        self.by_subnet: dict[int, int] = {}
        self.free_rows = list(range(SHARED_SLOTS, rows))
        self.methods, self.rtt_rows = np.zeros(histograms, np.int64), np.zeros(histograms, np.int64)
        self.rtt_owners, self.rtt_used = np.zeros(histograms, np.uint32), np.zeros(histograms, np.bool_)
        self.buckets: Counts = np.zeros((histograms, buckets.bucket_count(config.scale)), np.uint64)
        self.sum_ns: Counts = np.zeros(histograms, np.uint64)
        self.by_pair: dict[tuple[int, int], int] = {}
        self.free_histograms = list(range(1, histograms))
        self.readers: list[SyntheticReader] = []
        self.closing: dict[int, set[int]] = {}  # row -> the readers that have not read its final counts
        self._states: tuple[Any, Any] | None = None

    def reader(self) -> SyntheticReader:
        self.readers.append(SyntheticReader(self))
        return self.readers[-1]

    # ---- packets

    def _claim(self, subnet: int, answered: bool) -> int:
        """Return the row of a subnet. Claim a row if the subnet has none."""
        if (row := self.by_subnet.get(subnet)) is not None:
            return row
        if not self.free_rows or (not answered and len(self.newcomers()) >= self.max_newcomers):
            return OVERFLOW_SLOT if answered else UNANSWERED_SLOT
        row = self.by_subnet[subnet] = self.free_rows.pop(0)
        self.slots["key"][row], self.created_ns[row] = key_of(subnet), self.now_ns
        return row

    def newcomers(self) -> list[int]:
        """Return the rows of newcomers."""
        return [row for row in self.by_subnet.values() if not self.answered[row]]

    def packet(self, subnet: int, octets: int) -> int:
        """Count a packet of a subnet. Return the row in which the packet is counted."""
        self.now_ns += 1
        row = self._claim(subnet, answered=False)
        count = self.counters["classes"]["from" if octets % 2 else "to"]
        count["packets"][row, octets % 5] += np.uint64(1)
        count["bytes"][row, octets % 5] += np.uint64(octets)
        self.truth += Counter({PACKETS: 1, IO: octets})
        return row

    def rtt(self, subnet: int, method: int, rtt_ns: int) -> int:
        """Count an RTT of a subnet, which is no newcomer from now on. Return the RTT's histogram."""
        self.now_ns += 1
        row = self._claim(subnet, answered=True)
        if row != OVERFLOW_SLOT:
            self.answered[row] = True
        pair = row, method
        if row != OVERFLOW_SLOT and pair not in self.by_pair and self.free_histograms:
            new = self.by_pair[pair] = self.free_histograms.pop(0)
            self.rtt_rows[new], self.methods[new], self.rtt_used[new] = row, method, True
        number = self.by_pair.get(pair, OVERFLOW_HISTOGRAM)
        self.buckets[number, buckets.index_of(rtt_ns, self.config.scale) - buckets.first_index(self.config.scale)] += (
            np.uint64(1)
        )
        self.sum_ns[number] += np.uint64(rtt_ns)
        for reader in self.readers:
            reader.min_ns[number] = min(int(reader.min_ns[number]), rtt_ns)
            reader.max_ns[number] = max(int(reader.max_ns[number]), rtt_ns)
        self.truth += Counter({RTTS: 1, RTT_NS: rtt_ns})
        return number

    # ---- rows that lose their owner

    def take_back_newcomers(self) -> None:
        """Take back the slots of all newcomers. The counts of these slots move to the row of the aggregate."""
        for row in self.newcomers():
            for way in ("from", "to"):
                for unit in ("packets", "bytes"):
                    counts = self.counters["classes"][way][unit]
                    counts[UNANSWERED_SLOT] += counts[row]
            self._forget(row)
            self._free(row)

    def retire(self, subnet: int) -> None:
        """Start to reclaim the slot of a subnet that has answered."""
        row = self.by_subnet.get(subnet)
        if row is not None and self.answered[row]:
            self._forget(row)
            self.closing[row] = set(range(len(self.readers)))

    def retire_all(self) -> None:
        """Take back the slots of all newcomers, and start to reclaim all other slots."""
        self.take_back_newcomers()
        for subnet in list(self.by_subnet):
            self.retire(subnet)

    def _forget(self, row: int) -> None:
        self.by_subnet = {subnet: other for subnet, other in self.by_subnet.items() if other != row}

    def _free(self, row: int) -> None:
        self.counters[row], self.slots[row] = np.zeros((), COUNTERS), np.zeros((), SLOT)
        self.created_ns[row], self.answered[row] = 0, False
        self.active[row] = 0
        self.owners[row] += 1
        self.free_rows.append(row)
        for pair, number in list(self.by_pair.items()):
            if pair[0] == row:
                del self.by_pair[pair]
                self.buckets[number] = self.sum_ns[number] = 0
                self.rtt_used[number] = False
                self.rtt_owners[number] += 1
                for reader in self.readers:
                    reader.reset(np.array([number]))
                self.free_histograms.append(number)

    # ---- readings

    def freeze_states(self) -> None:
        """Read the states of slots now for the next reading. The next reading reads the counts later."""
        self._states = self.created_ns.copy(), self.answered.copy()

    def read(self, reader: SyntheticReader) -> Reading:
        self.now_ns += 1
        created_ns, answered = self._states or (self.created_ns.copy(), self.answered.copy())
        self._states = None
        reading = Reading(
            time_ns=self.now_ns,
            slots=self.slots.copy(),
            created_ns=created_ns,
            generation=self.owners << 1 | (created_ns != 0),
            answered=answered,
            unanswered=self.unanswered,
            rtts=RttTable(
                rows=self.rtt_rows.copy(),
                methods=self.methods.copy(),
                generation=self.rtt_owners << np.uint32(1)
                | (self.rtt_used & answered[self.rtt_rows]).astype(np.uint32),
                buckets=runs_of(self.buckets),
                sum_ns=self.sum_ns.copy(),
                min_ns=reader.min_ns.copy(),
                max_ns=reader.max_ns.copy(),
            ),
            counters=self.counters.copy(),
            active=self.active.copy(),
            flows=0,
            flows_evicted=0,
            names={0: ""},
            interfaces=np.zeros(1, INTERFACE_COUNTERS),
            interfaces_since_ns=np.array([STARTED_NS]),
            gone=frozenset(),
        )
        reader.reset(slice(None))
        for row, waiting in list(self.closing.items()):
            waiting.discard(self.readers.index(reader))
            if not waiting:
                del self.closing[row]
                self._free(row)
        self.now_ns += 1
        return reading


class SyntheticCollector:
    """The part of EppingCollector that EppingMetricProducer uses."""

    def __init__(self, kernel: SyntheticKernel) -> None:
        self.config, self.started_ns, self.reader = kernel.config, STARTED_NS, kernel.reader
        self.networks = Networks()
        self.slots = SimpleNamespace(retired=0)
        self.attachments = SimpleNamespace(state=dict, kernel_packets={})
        self.directions = SimpleNamespace(flows={})
