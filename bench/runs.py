# SPDX-License-Identifier: Apache-2.0
"""Packets through programs by BPF_PROG_TEST_RUN, timed by the kernel."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from bench.packets import Packets
from bench.programs import Contender
from otel_epping.replay.replayer import TestRuns

# The slowest of a thousand runs are left out of a mean: an interrupt came between, or the hypervisor.
_KEPT = 0.999
_REFUSED = "the kernel refuses a test run of a packet"


class Course(TestRuns):
    """Packets on their way through a contender, each through the entry point of its own direction."""

    def __init__(self, contender: Contender, packets: Packets, repeat: int = 1) -> None:
        super().__init__(-1, len(packets.rows))
        self._packets = packets  # kept: the kernel reads from there
        self.options["data_in"] = packets.rows.ctypes.data + packets.rows.strides[0] * np.arange(len(packets.rows))
        self.options["data_size_in"] = self.contexts["wire_len"] = packets.sizes
        self.options["repeat"] = repeat
        directions = [contender.hooks.get("ingress", -1), contender.hooks.get("egress", -1)]
        self._fds: list[int] = np.array(directions)[packets.egress.astype(int)].tolist()

    def run(self, rows: int | None = None) -> None:
        """Runs all packets, in order. Raises OSError where the kernel refuses one."""
        self.options["data_size_out"] = 0
        if any(map(self._run, self._fds, self._addresses)):
            raise OSError(_REFUSED)

    def run_one(self, row: int) -> int:
        """Runs one packet: what it took, in ns. Raises OSError if the kernel refuses it."""
        self.options["data_size_out"][row] = 0
        if self._run(self._fds[row], self._addresses[row]):
            raise OSError(_REFUSED)
        return int(self.options["duration"][row])

    @property
    def mean_ns(self) -> float:
        """What a packet of the last run took."""
        durations: npt.NDArray[np.uint32] = np.sort(self.options["duration"])
        return float(durations[: max(1, int(len(durations) * _KEPT))].mean())


@contextmanager
def one_cpu() -> Iterator[None]:
    """Keeps the body on one CPU, and so in its caches."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
