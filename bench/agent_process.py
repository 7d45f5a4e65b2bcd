# SPDX-License-Identifier: Apache-2.0
"""Runs the real agent, `otel-epping run`, as a process that watches the near end of the veth pair."""

import time

from bench.blackhole import Blackhole
from bench.veth_pair import VethPair
from bench.watching_process import WatchingProcess
from otel_epping.errors import EppingError

_FIRST_S = 30.0
# An export has ended if no request arrives during this fraction of the export interval.
_PAUSE = 0.15
# With these options, the agent exports all metrics of all subnets.
EVERYTHING = ("--metrics", "all", "--max-series", "0")


class AgentProcess(WatchingProcess):
    """A running agent that exports to `endpoint`."""

    def __init__(self, veth: VethPair, endpoint: str, *options: str) -> None:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_TIMEOUT": "120"}
        super().__init__(veth, "run", *options, environment=environment)

    def next_export(self, receiver: Blackhole, interval_s: float) -> int:
        """Waits until the next export has started and ended. Returns the size of the export in bytes."""
        seen = first = len(receiver.sizes)
        self.wait_until(lambda: len(receiver.sizes) > first, _FIRST_S + interval_s, "an export starts", 0.05)
        while len(receiver.sizes) > seen:
            seen = len(receiver.sizes)
            time.sleep(interval_s * _PAUSE)
        return sum(receiver.sizes[first:seen])

    def stop(self) -> float:
        """Sends SIGTERM and waits until the agent ends. Returns the peak of the agent's resident memory in MB.

        Raises EppingError if the exit status is not 0.
        """
        self.process.terminate()
        peak_mb = 0.0
        while self.process.poll() is None:
            peak_mb = max(peak_mb, self.memory_mb("VmHWM"))
            time.sleep(0.01)
        if self.process.returncode:
            raise EppingError(f"the agent ended with status {self.process.returncode} after SIGTERM", self.log)
        return peak_mb
