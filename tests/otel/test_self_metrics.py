# SPDX-License-Identifier: Apache-2.0
"""Compares the agent's metrics about itself with figures of the kernel and of other sources."""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table
from otel_epping.otel.counters import INTERFACE_COUNTERS
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.install import install
from otel_epping.otel.metric import Metric
from tests.long.pressure import Load, run
from tests.support.command import converse
from tests.support.lab_agent import figure
from tests.support.metrics import ALL_METRICS
from tests.support.prog_test_run import EGRESS, START_NS, Bench
from tests.support.recorder import exporter

SMALL = EppingConfig(max_subnets=64, max_flows=64)
ALL_PACKETS = INTERFACE_COUNTERS[0].metric.name


@contextmanager
def bpf_stats() -> Iterator[None]:
    """Make the kernel measure the runs of BPF programs while the body of the `with` statement runs."""
    fd = ctypes.CDLL("libbpf.so.1").bpf_enable_stats(0)  # BPF_STATS_RUN_TIME
    assert fd >= 0
    try:
        yield
    finally:
        os.close(fd)


@contextmanager
def exporting(collector: EppingCollector, sink: Sink) -> Iterator[Callable[[], None]]:
    """Yield a function that exports the kernel's counts, and then exports the instruments of the same reader."""
    own = PeriodicExportingMetricReader(exporter(sink), float("inf"))
    provider = MeterProvider(metric_readers=[own], shutdown_on_exit=False)
    reader = install(provider, exporter(sink), collector, 60, ExportSettings(ALL_METRICS))

    def export() -> None:
        assert reader.force_flush()
        assert provider.force_flush()

    yield export
    reader.shutdown()
    provider.shutdown()


def latest(sink: Sink, metric: Metric) -> dict[str, int | float]:
    """Return the newest values of a metric. The keys are the values of the metric's only attribute."""
    points = sink.points(metric.name)
    newest = max((point.point.time_unix_nano for point in points), default=0)
    return {
        str(next(iter(point.attributes.values()), "")): getattr(point.point, point.point.WhichOneof("value"))
        for point in points
        if point.point.time_unix_nano == newest
    }


def test_interfaces_program_runs_memory_and_durations(ns: Namespace) -> None:
    with Sink() as sink, EppingCollector(SMALL) as collector, exporting(collector, sink) as export:
        with ns.entered():
            ns.ip("link add gone0 type veth peer name gone1", "link set gone0 up")
            for name in ("lo", "gone0"):
                collector.attachments.attach(name)
        converse(ns)
        export()
        assert latest(sink, metric_table.INTERFACE_ATTACHED) == {"lo": 1, "gone0": 1}
        assert latest(sink, agent_metrics.PROGRAM_RUNS) == {}, "the kernel does not count runs by default"
        counted = sum(point.point.as_int for point in sink.points(ALL_PACKETS))
        sink.clear()

        with bpf_stats():
            converse(ns)
        ns.ip("link delete gone0")
        export()
        assert latest(sink, metric_table.INTERFACE_ATTACHED) == {"lo": 1, "gone0": 0}
        runs, time_s = latest(sink, agent_metrics.PROGRAM_RUNS), latest(sink, agent_metrics.PROGRAM_TIME)
        assert set(runs) == set(time_s) == {"receive", "transmit"}
        passed = sum(point.point.as_int for point in sink.points(ALL_PACKETS)) - counted
        assert passed > 80
        assert sum(runs.values()) == passed
        each_ns = 1e9 * sum(time_s.values()) / sum(runs.values())
        figure("ns for each run of the program", each_ns)
        assert 20 < each_ns < 100_000

        (resident,) = latest(sink, agent_metrics.MEMORY_USAGE).values()
        status = Path("/proc/self/status").read_text()
        now = int(status.split("VmRSS:")[1].split()[0]) * 1024
        assert abs(resident - now) < 8 << 20
        (first_export,) = latest(sink, agent_metrics.EXPORT_DURATION).values()
        (first_read,) = latest(sink, agent_metrics.READ_DURATION).values()
        assert 0 < first_read < first_export < 5


@pytest.fixture
def small() -> Iterator[Bench]:
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=1024, max_flows=1024, sample_interval_ns=0))
    yield bench
    bench.close()


def test_flows_evicted(small: Bench) -> None:
    """The evicted flows are all flows that were created and are not in the table any more."""
    with Sink() as sink, exporting(small.collector, sink) as export:
        for strangers in (300, 3000, 0, 2000):
            run(small, Load(flows=0, strangers=strangers, packets_of_each=2, hosts=250, duration_ms=1000))
            export()
            (evicted,) = latest(sink, agent_metrics.FLOW_EVICTED).values()
            created = small.counters()["flows_created"]
            (held,) = latest(sink, agent_metrics.FLOW_USAGE).values()
            assert evicted == created - held
            assert (evicted > 0) == (created > 1024)
        assert small.counters()["flows_created"] == 5300


def test_flows_created_during_a_reading_do_not_count_as_evicted(
    bench_of: Callable[[EppingConfig], Bench],
) -> None:
    bench = bench_of(EppingConfig(packet_clock=True, max_subnets=1024, max_flows=1 << 17, sample_interval_ns=0))
    reader = bench.collector.reader()
    stop = threading.Event()

    def come() -> None:
        flow = bench.flow(client="10.1.1.1", server="10.2.2.2")
        frame = bytearray(flow.frame(0, "PA", 1000, 0, b"data"))
        feeder = bench.feeders[EGRESS]
        for number in range(20_000):  # with so few flows, no set of the table is full
            if stop.is_set():
                break
            frame[34:36] = (number + 1024).to_bytes(2, "big")  # the source port
            feeder.set(bytes(frame))
            feeder.run(START_NS)

    coming = threading.Thread(target=come)
    coming.start()
    readings = [reader.read() for _ in range(20)]
    stop.set()
    coming.join()
    flows = [reading.flows for reading in readings]
    assert flows[-1] - flows[0] > 50, "flows were created during the readings"
    assert [reading.flows_evicted for reading in readings] == [0] * 20
