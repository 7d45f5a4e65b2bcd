# SPDX-License-Identifier: Apache-2.0
"""Replays a capture as `otel-epping replay` does, frame by frame, and records which frame completed which RTT.

Each RTT increments one histogram. In this replay, all addresses are in the same subnet, so each method has exactly one
histogram for each side. Therefore the incremented histogram shows the method of the RTT.
"""

import ctypes
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from otel_epping.kernel import map_array, methods
from otel_epping.kernel.arrays import Records
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM
from otel_epping.replay import counts
from otel_epping.replay.capture import Capture, CaptureError
from otel_epping.replay.replayer import Replayer
from tests.oracles.frames import Frame
from tests.oracles.report import Report
from tests.support.flow_table import forget_flows

# Fields of struct flow_counters. Each field has two counts: segments that a subnet sent, and segments that were sent to
# the subnet.
KINDS = ("retransmitted", "out_of_order", "zero_window")
SENT = 0
MAX_AGE_NS = EppingConfig().max_age_ns


_library = ctypes.CDLL("libbpf.so.1", use_errno=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """One of our RTTs, with the frame of its reply. An RTT below one microsecond is recorded as one microsecond."""

    frame: int
    method: str
    rtt_ns: int


@dataclass
class Observed:
    """The program's results for a capture. `samples` has the RTTs in the order of the frames that completed them.
    `kinds` has the frames of the retransmitted, out-of-order and zero-window segments. `max_flows` is the size of the
    flow table. `frames` is the number of frames that the program saw. If the capture has more frames, `stopped` is the
    reason why the program did not see them. `duplicates` is the number of packets that were captured twice. `account`
    has the outcomes of the started RTT samples (counts.rtt_outcomes()).
    """

    samples: list[Sample] = field(default_factory=list)
    kinds: dict[str, set[int]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    max_flows: int = EppingConfig().max_flows
    frames: int = 0
    stopped: str = ""
    duplicates: int = 0
    account: dict[str, int] = field(default_factory=dict)

    def seen(self, records: list[Frame], report: Report) -> list[Frame]:
        """Returns the records that the program saw. If the program did not see all records, adds a note or an error to
        the report."""
        if self.stopped:
            report.notes.append(f"no frame after {self.frames} was read: {self.stopped}")
        elif self.frames != len(records):
            report.errors.append(f"{self.frames} frames were replayed, but scapy finds {len(records)}")
        return records[: self.frames]

    def of(self, method: str) -> list[Sample]:
        """Returns the samples of a method."""
        return [sample for sample in self.samples if sample.method == method]


class Ours:
    """The loaded program. The program can replay any number of captures, one after the other."""

    def __init__(self, names: tuple[str, ...] = methods.ALL, max_flows: int = EppingConfig().max_flows) -> None:
        self.methods = names
        self._max_flows = max_flows
        self._replayer = Replayer(
            EppingConfig(
                sample_interval_ns=0, prefix_v4=0, prefix_v6=0, max_subnets=64, max_flows=max_flows, methods=names
            )
        )
        self._histograms, self._segments = map(self._array, ("histograms", "flow_counters"))
        self._reader = self._replayer.reader()

    def run(self, path: Path) -> Observed:
        """Replays a capture, up to a truncated record or an unknown link type."""
        forget_flows(self._replayer.program.maps)
        self._forget("transactions")
        observed = Observed(max_flows=self._max_flows)
        duplicates, account = self._totals()
        ended, sums = self._histograms["ended"].copy(), self._histograms["sum_ns"].copy()
        counted = self._segments.copy()
        try:
            with Capture(str(path)) as capture:
                for batch in capture.ethernet_batches():
                    for row in range(len(batch)):
                        one = batch.take(slice(row, row + 1))
                        self._replayer.feed(one)
                        observed.frames += 1
                        if not np.array_equal(self._histograms["ended"], ended):
                            observed.samples += self._samples(observed.frames, ended, sums)
                            ended, sums = self._histograms["ended"].copy(), self._histograms["sum_ns"].copy()
                        if not np.array_equal(self._segments, counted):
                            for kind in KINDS:
                                if (self._segments[kind][:, SENT] != counted[kind][:, SENT]).any():
                                    observed.kinds[kind].add(observed.frames)
                            counted = self._segments.copy()
        except CaptureError as error:
            observed.stopped = str(error)
        duplicates_after, account_after = self._totals()
        observed.duplicates = duplicates_after - duplicates
        observed.account = {name: count - account[name] for name, count in account_after.items()}
        return observed

    def close(self) -> None:
        """Unloads the program."""
        self._replayer.close()

    def _totals(self) -> tuple[int, dict[str, int]]:
        """Returns the values of `duplicates` and `account`, added up over all captures so far. Samples that were still
        pending after a capture were removed with their flows."""
        reading = self._reader.read()
        return counts.duplicates(reading), counts.rtt_outcomes(reading, self._replayer.waiting())

    def _samples(self, frame: int, ended: Records, sums: Records) -> list[Sample]:
        """Compares the histograms with their earlier values `ended` and `sums`. Returns the RTTs that were added after
        the earlier values were read."""
        samples = []
        for row in np.flatnonzero(self._histograms["ended"] != ended).tolist():
            assert row != OVERFLOW_HISTOGRAM
            assert self._histograms["ended"][row] == ended[row] + 1, "two RTTs of one method in one packet"
            method = methods.METHODS[int(self._histograms["method"][row])].name
            samples.append(Sample(frame, method, int(self._histograms["sum_ns"][row] - sums[row])))
        return samples

    def _array(self, name: str) -> Records:
        """Returns a view of an array of the program. The view always shows the current values."""
        array = map_array.Array(name, self._replayer.program.maps[name])
        return array.rows(0, array.length)

    def _forget(self, name: str) -> None:
        """Deletes all elements of a hash map."""
        fd = self._replayer.program.maps[name].fd
        key = ctypes.create_string_buffer(map_array.map_info(fd)["key_size"])
        while _library.bpf_map_get_next_key(fd, None, key) == 0:
            _library.bpf_map_delete_elem(fd, key)
