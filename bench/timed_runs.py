# SPDX-License-Identifier: Apache-2.0
"""Runs packets through programs with BPF_PROG_TEST_RUN and reads the times that the kernel measures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.packets import Packets
from bench.programs import Contender
from otel_epping.replay.replayer import ProgTestRuns

# A mean leaves out the slowest run of each thousand, which an interrupt or the hypervisor delayed.
_KEPT = 0.999
_REFUSED = "the kernel refused to run a packet through a program (BPF_PROG_TEST_RUN)"


class TimedRuns(ProgTestRuns):
    """Runs of packets through a contender. Each packet uses the program of its direction."""

    def __init__(self, contender: Contender, packets: Packets, repeat: int = 1) -> None:
        super().__init__(-1, len(packets.rows))
        self._packets = packets  # keeps the frames alive: the kernel reads them
        self.options["data_in"] = packets.rows.ctypes.data + packets.rows.strides[0] * np.arange(len(packets.rows))
        self.options["data_size_in"] = self.contexts["wire_len"] = packets.sizes
        self.options["repeat"] = repeat
        directions = [contender.hooks.get("ingress", -1), contender.hooks.get("egress", -1)]
        self._fds: list[int] = np.array(directions)[packets.egress.astype(int)].tolist()

    def run(self, rows: int | None = None) -> None:
        """Runs all packets, in order. Raises OSError if the kernel refuses a packet."""
        self.options["data_size_out"] = 0
        if any(map(self._run, self._fds, self._addresses)):
            raise OSError(_REFUSED)

    def run_one(self, row: int) -> int:
        """Runs one packet and returns its time in ns. Raises OSError if the kernel refuses the packet."""
        self.options["data_size_out"][row] = 0
        if self._run(self._fds[row], self._addresses[row]):
            raise OSError(_REFUSED)
        return int(self.options["duration"][row])

    @property
    def mean_ns(self) -> float:
        """The mean time of a packet in the last run, in ns."""
        durations: npt.NDArray[np.uint32] = np.sort(self.options["duration"])
        return float(durations[: max(1, int(len(durations) * _KEPT))].mean())


@contextmanager
def one_cpu() -> Iterator[None]:
    """Runs the body on one CPU, so that its data stays in the caches of that CPU."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
