# SPDX-License-Identifier: Apache-2.0
"""Runs the agent, and reads its exports from its standard output."""

import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from otel_epping.lab.namespaces import Namespace
from tests.vm.guest.network import DELAY_MS
from tests.vm.guest.results import SHARE

COMMAND = (sys.executable, "-m", "otel_epping")
_START_S = 300.0
_INTERVAL_S = 3
# An RTT should be shorter than the application's time, which starts before the packet is sent and ends after the reply
# is read. But a tcp_timestamp RTT may be longer by one tick (1 ms), and any RTT may be longer by the rounding error of
# the export. TCP timestamps tick in milliseconds, and an RTT starts with the first segment of a tick, which may be an
# acknowledgement shortly before the request. The agent exports RTTs in seconds as floating-point numbers, so RTTs are
# rounded.
_TICK_MS = {"tcp_timestamp": 1.0}
_ROUNDING_MS = 0.001


class Rtt(NamedTuple):
    """The RTTs of a series: the number of RTTs, and the shortest RTT in ms."""

    number: int
    least_ms: float


class NotStartedError(Exception):
    """The agent ended before it watched its interfaces, or the agent took too long to start. The message has the
    agent's log."""


Series = tuple[str, str, str]  # interface, subnet, method


class Agent:
    """`otel-epping run` in a namespace, without a sample interval. `prefix` is the part of the command line before the
    agent's command."""

    def __init__(
        self,
        name: str,
        namespace: Namespace,
        interfaces: list[str],
        *arguments: str,
        prefix: tuple[str, ...] = (),
    ) -> None:
        self._log = SHARE / f"{name}.log"
        self._out = Path(tempfile.mkdtemp(), "out")
        environment = os.environ | {"OTEL_METRICS_EXPORTER": "console", "PYTHONUNBUFFERED": "1"}
        environment.pop("PYTHONPATH")  # run the installed agent, not the checkout
        chosen = [word for interface in interfaces for word in ("-i", interface)]
        command = [*prefix, *COMMAND, "run", "--interval", f"{_INTERVAL_S}s", "--sample-interval", "0"]
        began = time.monotonic()
        with self._log.open("w") as log, self._out.open("w") as out:
            self.process = namespace.popen(
                [*command, *chosen, *arguments], env=environment, stderr=log, stdout=out, cwd="/tmp"
            )
        while "watching" not in self.log:
            if self.process.poll() is not None or time.monotonic() > began + _START_S:
                raise NotStartedError(f"the agent did not start to watch: {self.log[-1500:]}")
            time.sleep(0.2)
        self.start_s = time.monotonic() - began

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> int:
        """Wait until all counts have been exported. Then end the agent, and return its exit code."""
        time.sleep(_INTERVAL_S + 1)
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def exported(self, metric: str) -> list[dict[str, Any]]:
        """Return the last data point of each series of a metric."""
        text, at, decoder = self._out.read_text(), 0, json.JSONDecoder()
        points: dict[str, dict[str, Any]] = {}
        while (at := text.find("{", at)) >= 0:
            document, at = decoder.raw_decode(text, at)
            for resource in document["resource_metrics"]:
                for scope in resource["scope_metrics"]:
                    for found in scope["metrics"]:
                        if found["name"] == metric:
                            points |= {
                                json.dumps(point["attributes"], sort_keys=True): point
                                for point in found["data"]["data_points"]
                            }
        return list(points.values())

    def rtts(self) -> dict[Series, Rtt]:
        """Return the RTTs on the external side."""
        found = {}
        for point in self.exported("epping.rtt.duration"):
            of = point["attributes"]
            if of["epping.rtt.side"] == "external" and point["count"]:
                series = of["network.interface.name"], of["epping.subnet"], of["epping.rtt.method"]
                found[series] = Rtt(point["count"], round(point["min"] * 1e3, 3))
        return found

    def kinds(self, interface: str) -> dict[str, int]:
        """Return the number of packets of an interface by kind."""
        counts: dict[str, int] = {}
        for point in self.exported("epping.interface.packet.count"):
            of = point["attributes"]
            if of["network.interface.name"] == interface and point["value"]:
                kind = of["epping.packet.kind"]
                counts[kind] = counts.get(kind, 0) + point["value"]
        return counts


def judged(rtt: Rtt | None, method: str, application_ms: float) -> tuple[bool, str]:
    """Judge a series by its shortest RTT, which must be at least netem's delay and at most the time that the
    application measured."""
    if rtt is None:
        return False, f"no RTT (application {application_ms:.3f} ms)"
    ok = DELAY_MS <= rtt.least_ms <= application_ms + _TICK_MS.get(method, 0.0) + _ROUNDING_MS
    return ok, f"{rtt.number} RTTs from {rtt.least_ms:.3f} ms (application {application_ms:.3f} ms)"
