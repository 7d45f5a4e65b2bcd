# SPDX-License-Identifier: Apache-2.0
"""Compares our encoded requests with requests of the SDK's encoder for the same counts."""

import logging
import random
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource
from scapy.layers.inet import ICMP, IP, UDP

from otel_epping.kernel import methods
from otel_epping.kernel.attach.interfaces import Interface
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.counters import SUBNET_COUNTERS
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.otlp.encoder import BatchEncoder
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.grouping import Grouping
from otel_epping.series.limits import Limits
from tests.support.metrics import ALL_METRICS
from tests.support.names import FakeDatabases
from tests.support.otlp_receiver import GRPC, receiver
from tests.support.packets import ETHER
from tests.support.prog_test_run import EGRESS, MS, Bench
from tests.support.recorder import CONFIG, Conversation, exporter
from tests.support.synthetic_kernel import SyntheticCollector, SyntheticKernel

pytestmark = pytest.mark.parallel


RESOURCE = Resource({"service.name": "test", "host.name": "b\u00fccher"})
NOTHING = MetricsData([ResourceMetrics(RESOURCE, [], "")])
# The test that compares requests feeds more subnets than SUBNETS, so some subnets overflow. All other tests feed fewer
# subnets.
SUBNETS = 40


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program with few slots. If a subnet gets no slot, its packets are counted in the overflow slot."""
    with closing(Bench(replace(CONFIG, max_subnets=SUBNETS))) as bench:
        loopback = socket.if_nametoindex("lo")
        bench.collector.attachments.register(Interface("l\u00f6\u00f6p", loopback, 14))
        yield bench


def talk(bench: Bench, draw: random.Random, conversations: list[Conversation]) -> None:
    """Feed RTTs with a narrow or wide distribution.

    Feed packets of old and new subnets, of all traffic classes, with ECN.
    """
    conversations += [Conversation(bench) for _ in range(6)]
    for conversation in conversations:
        low = draw.choice([10, 20, 29])
        conversation.record([round(2 ** draw.uniform(low, 30)) for _ in range(draw.randrange(200))])
    for layer in (UDP(dport=6000), ICMP(), UDP(dport=53) / bytes(20)):
        bench.feed(ETHER / IP(src="192.0.2.1", dst="198.51.100.1", tos=draw.randrange(4)) / layer, entry=EGRESS)


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_a_request_equals_that_of_the_sdks_encoder(bench: Bench, temporality: AggregationTemporality) -> None:
    draw = random.Random(11)
    conversations: list[Conversation] = []
    producer = EppingMetricProducer(bench.collector, temporality, ExportSettings(ALL_METRICS))
    encoder = BatchEncoder(producer.config)
    seen: set[str] = set()
    for _ in range(8):
        talk(bench, draw, conversations)
        producer.read()
        for batch in producer.batches():
            ours = encoder.request([ResourceMetrics(RESOURCE, [], "https://example.com/1")], batch)
            theirs = ResourceMetrics(RESOURCE, [producer.metrics(batch)], "https://example.com/1")
            expected = encode_metrics(MetricsData([theirs]))
            assert ExportMetricsServiceRequest.FromString(ours.body) == expected
            assert ours.points == sum(len(metric.data.data_points) for metric in theirs.scope_metrics[0].metrics)
            seen |= {metric.name for metric in theirs.scope_metrics[0].metrics}
            if draw.random() < 0.7:  # without this call, the counts of the batch would be exported again
                producer.acknowledge(batch)
    assert metric_table.RTT.name in seen
    assert semconv.OVERFLOW in str(expected)
    assert len(seen) > len({counter.metric for counter in SUBNET_COUNTERS}) // 2


@pytest.mark.unit
@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_a_request_with_shared_points_and_covering_prefixes_equals_that_of_the_sdks_encoder(
    temporality: AggregationTemporality,
) -> None:
    draw, kernel = random.Random(12), SyntheticKernel(CONFIG, rows=30, histograms=30)
    collector: Any = SyntheticCollector(kernel)
    databases: Any = FakeDatabases()
    settings = ExportSettings(ALL_METRICS, Limits(max_series=12), Grouping(databases=databases))
    producer = EppingMetricProducer(collector, temporality, settings)
    encoder = BatchEncoder(producer.config)
    for _ in range(6):
        for _ in range(100):
            kernel.packet(draw.randrange(60), draw.randrange(40, 1500))
            kernel.rtt(draw.randrange(30), draw.randrange(6), round(2 ** draw.uniform(10, 35)))
        kernel.take_back_newcomers()
        for _ in range(5):
            kernel.retire(draw.randrange(30))
        producer.read()
        for batch in producer.batches():
            ours = encoder.request([ResourceMetrics(RESOURCE, [], "")], batch)
            expected = encode_metrics(MetricsData([ResourceMetrics(RESOURCE, [producer.metrics(batch)], "")]))
            assert ExportMetricsServiceRequest.FromString(ours.body) == expected
            if draw.random() < 0.7:
                producer.acknowledge(batch)
    for words in (semconv.OVERFLOW, semconv.UNANSWERED, "/16", "/24", semconv.AS_NUMBER, semconv.COUNTRY, *methods.ALL):
        assert words in str(expected)


def test_rejected_points_are_counted_and_logged_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    partial = ExportMetricsPartialSuccess(rejected_data_points=2, error_message="too old")
    with receiver(GRPC) as server:
        server.response = ExportMetricsServiceResponse(partial_success=partial).SerializeToString()
        wrapped = ProducerExporter(OTLPMetricExporter(server.endpoint, insecure=True), bench.collector)
        for _ in range(3):
            Conversation(bench).record([MS])
            wrapped.export(NOTHING)
        wrapped.shutdown()
        assert len(server.bodies) == 3
    assert (wrapped.rejected, wrapped.failed) == (6, 0)
    logged = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert logged == ["the receiver rejected 2 data points: too old"]


def test_an_exporter_that_fails_to_send_our_requests_gets_sdk_objects(
    bench: Bench, sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If an exporter fails to send our encoded request, the exporter gets the metrics as SDK objects.

    A later release of the exporter may have another internal structure. The agent notices another internal structure
    when it sends the first request.
    """
    inner = exporter(sink)
    wrapped = ProducerExporter(inner, bench.collector)

    def broken(*_: Any) -> None:
        raise TypeError("not as it was")

    assert wrapped._sender
    monkeypatch.setattr(wrapped._sender, "send", broken)
    Conversation(bench).record([MS, MS])
    for _ in range(2):
        wrapped.export(NOTHING)
    assert wrapped.failed == 0
    assert [point.point.count for point in sink.points(metric_table.RTT.name)] == [2, 2]
    (said,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "from now on, the exporter encodes all requests" in said.getMessage()
    wrapped.shutdown()
