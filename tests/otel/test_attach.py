# SPDX-License-Identifier: Apache-2.0
"""Tests attach(). An existing reader of the SDK exports the kernel's counts, and continues after a failed reading."""

import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from prometheus_client import REGISTRY, start_http_server

from otel_epping.kernel.read.reader import Reader
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.install import attach
from tests.support.patience import PATIENCE_S
from tests.support.prog_test_run import MS, Bench
from tests.support.recorder import CONFIG, PACKETS, Conversation, exporter, scrape


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program that no other test uses. Readers of this program start without counts."""
    with closing(Bench(CONFIG)) as bench:
        yield bench


def test_a_reader_survives_a_failed_reading(shared: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """While readings of the kernel's counts fail, the SDK's reader still exports the application's own metrics."""
    reader = PeriodicExportingMetricReader(exporter(sink), 50)
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    attach(reader, shared.collector, Resource.create())
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", lambda _: (_ for _ in ()).throw(OSError("the kernel is gone")))
        sink.clear()
        sink.wait_for(lambda received: len(received.requests) >= 3, PATIENCE_S)
        assert sink.points("shop.orders")
        assert not sink.points(PACKETS)
    Conversation(shared).record([5 * MS])
    sink.wait_for(lambda received: received.points(metric_table.RTT.name), PATIENCE_S)
    assert reader._daemon_thread.is_alive()  # type: ignore[union-attr]
    provider.shutdown()


def test_an_exporter_survives_a_failed_reading(shared: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = PeriodicExportingMetricReader(ProducerExporter(exporter(sink), shared.collector), float("inf"))
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    with monkeypatch.context() as patch:
        patch.setattr(Reader, "read", lambda _: (_ for _ in ()).throw(OSError("the kernel is gone")))
        provider.force_flush()
    assert sink.points("shop.orders")
    assert not sink.points(PACKETS)
    Conversation(shared).record([5 * MS])
    provider.force_flush()
    assert sink.points(metric_table.RTT.name)
    provider.shutdown()


def test_attaching_adds_metrics_and_can_be_undone(shared: Bench) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    undo = attach(reader, shared.collector, Resource.create())
    Conversation(shared).record([5 * MS])

    def names() -> set[str]:
        data = reader.get_metrics_data()
        assert data
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics]
        return {metric.name for scope in scopes for metric in scope.metrics}

    assert names() >= {"shop.orders", metric_table.RTT.name, PACKETS}
    undo()
    assert names() == {"shop.orders"}
    provider.shutdown()


def test_prometheus_scrapes_the_same_counts(bench: Bench) -> None:
    reader = PrometheusMetricReader()
    provider = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    attach(reader, bench.collector, Resource.create())
    draw = random.Random(9)
    rtts_ns = [round(2 ** draw.uniform(10, 35.8)) for _ in range(500)]
    conversation = Conversation(bench)
    conversation.record(rtts_ns)
    server, thread = start_http_server(0, "127.0.0.1", REGISTRY)
    families = scrape(server.server_port)
    server.shutdown()
    thread.join()
    provider.shutdown()
    samples = families["epping_rtt_duration_seconds"].samples
    below = {float(s.labels["le"]): s.value for s in samples if s.name.endswith("_bucket")}
    assert len(below) > 50
    for bound, count in below.items():
        assert count == sum(rtt_ns / 1e9 <= bound for rtt_ns in rtts_ns)
    (whole,) = [s.value for s in samples if s.name.endswith("_count")]
    (seconds,) = [s.value for s in samples if s.name.endswith("_sum")]
    assert (whole, seconds) == (len(rtts_ns), pytest.approx(sum(rtts_ns) / 1e9))
    assert samples[0].labels[semconv.SUBNET.replace(".", "_")] == conversation.subnet
    assert "epping_network_packet_count" in families
