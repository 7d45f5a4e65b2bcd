# SPDX-License-Identifier: Apache-2.0
"""`otel-epping demo`: runs the agent on real TCP traffic with known RTTs, and compares measured and known RTTs.

Clients exchange data with servers in ten subnets through a router. Each subnet has its own delay (`otel_epping.lab`).
The rate of another subnet is limited. In the second half of the demo, downloads fill the queue of this subnet. The
agent watches the router's interface, and exports to a third-party OpenTelemetry collector. The collector forwards the
metrics to a sink. The table of results is computed only from the metrics in the sink.
"""

import ipaddress
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.lab.collectors import collector
from otel_epping.lab.namespaces import LabError
from otel_epping.lab.otlp_sink import Point, Sink
from otel_epping.lab.topology import DEFAULT_NETWORKS, WAN_INTERFACE, DelayedNetwork, Lab, server_address
from otel_epping.otel import metric_table, semconv
from otel_epping.process.signals import enable_keyboard_interrupt
from otel_epping.series import histogram

try:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ImportError as error:
    raise EppingError("the demo needs rich: pip install 'otel-epping[demo]'") from error

_SECONDS = 22
_INTERVAL_S = 1
_DOWNLOADS, _DOWNLOAD_BYTES = 2, 10_000_000  # more bytes than the rate of the subnet allows in this time
_START_S = 15
_STOP_S = 20
# A median may exceed the configured delay by 2 ms or by 10 % of the delay, whichever is more. RTTs are longer than the
# configured delay because the link runs in user space and because the machine may be busy.
_TOLERANCE_S = 0.002
_TOLERANCE = 0.10
_MIN_COUNT = 10
# The subnet that becomes slow under load.
LOADED = DelayedNetwork(ipaddress.ip_network("198.18.4.0/24"), 30_000_000, bits_per_s=4_000_000)
# Every third server also has a client without TCP timestamps.
_LEGACY_STEP = 3


@dataclass(frozen=True)
class SubnetResult:
    """The RTTs of a subnet as the sink received them; times in s.

    without_timestamps   share of the TCP packets that have no timestamp, 0 to 1
    """

    network: DelayedNetwork
    count: int
    min_s: float
    median_s: float
    p95_s: float
    max_s: float
    without_timestamps: float

    @property
    def agrees(self) -> bool:
        """True if at least 10 RTTs arrived, none is shorter than the delay, and the median is within the tolerance.

        If the rate of the subnet is limited, RTTs contain the time in the queue. Then the minimum RTT is used instead
        of the median.
        """
        delay_s = self.network.delay_ns / 1e9
        compared_s = self.median_s if self.network.bits_per_s is None else self.min_s
        return (
            self.count >= _MIN_COUNT
            and delay_s <= self.min_s
            and compared_s <= delay_s + max(_TOLERANCE_S, delay_s * _TOLERANCE)
        )


def _latest(points: list[Point]) -> list[Point]:
    """Returns the last data point of each series.

    The counts are cumulative, so the last point includes all intervals.
    """
    series = {tuple(sorted(point.attributes.items())): point for point in points}
    return list(series.values())


def results(sink: Sink, networks: tuple[DelayedNetwork, ...]) -> Iterator[SubnetResult]:
    """Yields the result of each network, computed from the points in the sink.

    A network without RTTs has the count 0.
    """
    rtts = {
        point.attributes[semconv.SUBNET]: point.point
        for point in _latest(sink.points(metric_table.RTT.name))
        if point.attributes.get(semconv.SIDE) == "external" and point.attributes[semconv.METHOD] == "tcp_timestamp"
    }
    packets = _latest(sink.points(metric_table.SUBNET_PACKETS.name))
    for network in networks:
        subnet = str(network.subnet)
        tcp = dict.fromkeys(semconv.TRAFFIC_CLASSES, 0)
        for point in packets:
            if point.attributes.get(semconv.SUBNET) == subnet:
                tcp[str(point.attributes[semconv.TRAFFIC_CLASS])] += point.point.as_int
        share = tcp["tcp_other"] / max(1, tcp["tcp_other"] + tcp["tcp_timestamp"])
        if subnet not in rtts:
            yield SubnetResult(network, 0, 0.0, 0.0, 0.0, 0.0, share)
            continue
        rtt = rtts[subnet]
        buckets = histogram.Buckets(np.array(rtt.positive.bucket_counts, np.uint64), rtt.positive.offset, rtt.scale)
        median, p95 = (histogram.quantile(buckets, q, rtt.min, rtt.max) for q in (0.5, 0.95))
        yield SubnetResult(network, rtt.count, rtt.min, median, p95, rtt.max, share)


def _table(found: list[SubnetResult]) -> Table:
    table = Table(
        title="RTTs per subnet in ms, as the collector received them",
        caption="delay: configured RTT; no TS: share of TCP packets without timestamps",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),  # fits into 80 columns
    )
    table.add_column("subnet", no_wrap=True)
    for heading in ("delay", "count", "min", "p50", "p95", "max", "no TS"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for one in found:
        times = (f"{value * 1e3:.2f}" for value in (one.min_s, one.median_s, one.p95_s, one.max_s))
        table.add_row(
            str(one.network.subnet),
            f"{one.network.delay_ns / 1e6:.0f}",
            str(one.count),
            *times,
            f"{one.without_timestamps:.0%}",
            "[green]agrees[/]" if one.agrees else "[red]differs[/]",
        )
    return table


def _wait(progress: Progress, description: str, seconds: float) -> None:
    task = progress.add_task(description, total=seconds)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < seconds:
        progress.update(task, completed=passed)
        time.sleep(0.1)
    progress.update(task, completed=seconds)


def _measure(console: Console, record: Path | None) -> tuple[list[SubnetResult], int]:
    """Runs lab, collector, agent and traffic; returns the results and the number of received export requests."""
    with ExitStack() as stack:
        progress = stack.enter_context(
            Progress(TextColumn("{task.description:<48}"), BarColumn(), TimeRemainingColumn(), console=console)
        )
        lab = stack.enter_context(Lab((*DEFAULT_NETWORKS, LOADED)))
        sink = stack.enter_context(Sink(namespace=lab.router))
        forwarder = stack.enter_context(collector(sink, namespace=lab.router))
        progress.console.print(
            f"lab: 2 clients, a router, a link with known delays, {len(lab.networks)} server subnets"
        )
        progress.console.print(f"collector: {forwarder.name}, OTLP/gRPC at {forwarder.grpc_endpoint}")
        # The user's OTEL_* variables are removed, because they configure another agent with another collector.
        ours = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment = ours | {
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
            "OTEL_EXPORTER_OTLP_ENDPOINT": forwarder.grpc_endpoint,
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "cumulative",
        }
        command = [sys.executable, "-m", "otel_epping", "run", "-i", WAN_INTERFACE, "--interval", f"{_INTERVAL_S}s"]
        command += ["--metrics", "all"]  # the table of results shows the classes of traffic
        command += ["--record", str(record)] if record else []
        progress.console.print(f"agent: otel-epping {' '.join(command[3:])}")
        agent = lab.router.popen(command, env=environment)
        try:
            sink.wait_for(lambda received: received.requests, _START_S)
        except TimeoutError as error:
            raise EppingError(
                f"no export arrived through {forwarder.name}: {error}; see the agent's log above"
            ) from error
        lab.serve()
        lab.talk(lab.client)
        lab.talk(lab.legacy, addresses=lab.addresses[::_LEGACY_STEP])
        _wait(progress, "clients and servers exchange data over TCP", _SECONDS / 2)
        for _ in range(_DOWNLOADS):
            lab.download(lab.client, server_address(LOADED), _DOWNLOAD_BYTES)
        _wait(progress, f"downloads fill the queue of {LOADED.subnet}", _SECONDS / 2)
        agent.terminate()
        if agent.wait(_STOP_S):
            raise EppingError("the agent failed: see its log above")
        _wait(progress, "the collector forwards the last interval", 2 * _INTERVAL_S)
        return list(results(sink, tuple(lab.networks))), len(sink.requests)


def run(record: Path | None = None) -> bool:
    """Runs the demo, and prints its table; returns whether the RTTs of all subnets agree with the configured delays.

    If `record` is set, the agent also writes its exports to this file, as lines of OTLP/JSON. Raises EppingError if the
    machine lacks something that the demo needs.
    """
    enable_keyboard_interrupt()
    console = Console()
    try:
        found, requests = _measure(console, record)
    except LabError as error:
        raise EppingError(str(error)) from error
    console.print(_table(found))
    agree = sum(one.agrees for one in found)
    console.print(
        f"{sum(one.count for one in found)} RTTs, counted in the kernel, arrived in {requests} OTLP requests. "
        f"{agree} of {len(found)} subnets agree with their delay: no RTT is shorter, and the median is at most "
        f"{_TOLERANCE:.0%} or {_TOLERANCE_S * 1e3:.0f} ms longer."
    )
    console.print(
        f"{LOADED.subnet} is slow under load: after {_SECONDS / 2:.0f} s, downloads filled the queue of its link. For "
        "this subnet, the minimum is compared with the delay, because the median contains time in the queue."
    )
    return agree == len(found)
