# SPDX-License-Identifier: Apache-2.0
"""Runs programs on packets with BPF_PROG_TEST_RUN, and reads the times that the kernel measures."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.packets import Packets
from bench.programs import Contender
from otel_epping.replay.replayer import ProgTestRuns

# The mean excludes the slowest 0.1 % of the runs, because interrupts or the hypervisor delayed these runs.
_KEPT = 0.999
_REFUSED = "the kernel refused to run a program on a packet (BPF_PROG_TEST_RUN)"


class TimedRuns(ProgTestRuns):
    """Runs a contender on packets.

    The egress program runs on packets that leave the host. The ingress program runs on all other packets.
    """

    def __init__(self, contender: Contender, packets: Packets, repeat: int = 1) -> None:
        super().__init__(-1, len(packets.rows))
        self._packets = packets  # keeps the frames in memory, because the kernel reads the frames
        self.options["data_in"] = packets.rows.ctypes.data + packets.rows.strides[0] * np.arange(len(packets.rows))
        self.options["data_size_in"] = self.contexts["wire_len"] = packets.sizes
        self.options["repeat"] = repeat
        directions = [contender.hooks.get("ingress", -1), contender.hooks.get("egress", -1)]
        self._fds: list[int] = np.array(directions)[packets.egress.astype(int)].tolist()

    def run(self, rows: int | None = None) -> None:
        """Runs the program on all packets, in order. Raises OSError if the kernel refuses a run."""
        self.options["data_size_out"] = 0
        if any(map(self._run, self._fds, self._addresses)):
            raise OSError(_REFUSED)

    def run_one(self, row: int) -> int:
        """Runs the program on one packet. Returns the time in ns. Raises OSError if the kernel refuses the run."""
        self.options["data_size_out"][row] = 0
        if self._run(self._fds[row], self._addresses[row]):
            raise OSError(_REFUSED)
        return int(self.options["duration"][row])

    @property
    def mean_ns(self) -> float:
        """The mean time per packet in the last call of run(), in ns."""
        durations: npt.NDArray[np.uint32] = np.sort(self.options["duration"])
        return float(durations[: max(1, int(len(durations) * _KEPT))].mean())


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keeps this thread on one CPU until the `with` statement ends, so that the CPU's caches keep the thread's data."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
