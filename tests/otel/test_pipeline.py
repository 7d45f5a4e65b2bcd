# SPDX-License-Identifier: Apache-2.0
"""Tests pipelines. OTEL_* variables select the exporters.

If a variable is wrong, one line names the variable and the cure.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from opentelemetry.sdk.metrics.export import MetricExporter, MetricReader

from otel_epping.errors import EppingError
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table
from otel_epping.otel.pipeline import Pipelines, exporter_classes
from tests.support.patience import PATIENCE_S
from tests.support.prog_test_run import MS, Bench
from tests.support.recorder import CONFIG, PACKETS, Conversation, packets_fed, scrape, total

pytestmark = pytest.mark.parallel


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program that no other test uses. Readers of this program start without counts."""
    with closing(Bench(CONFIG)) as bench:
        yield bench


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets OTEL_* variables, and unsets all other OTEL_* variables."""

    def set_variables(**values: str) -> None:
        for name in [name for name in os.environ if name.startswith("OTEL_")]:
            monkeypatch.delenv(name)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    set_variables()
    return set_variables


def test_metrics_of_instruments_and_of_the_kernel_are_exported(
    shared: Bench, sink: Sink, variables: Callable[..., None]
) -> None:
    """Metrics of instruments and of the kernel have the same scope, so a request must contain this scope only once.

    If a request contains two equal scopes, the OTLP encoder keeps only one of them.
    """
    variables(OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
    pipelines = Pipelines(shared.collector, 60, lambda *_: None)
    Conversation(shared).record([5 * MS])
    pipelines.shutdown()
    names = {metric.name for _, metric in sink.metrics()}
    assert names >= {metric_table.RTT.name, agent_metrics.READ_DURATION.name, agent_metrics.EXPORT_FAILED.name}


def test_each_of_several_exporters_exports_all_counts(bench: Bench, sink: Sink, variables: Callable[..., None]) -> None:
    """One exporter pushes deltas, and the other is scraped.

    otel/test_export_shutdown.py has two exporters that push.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables(
        OTEL_METRICS_EXPORTER="otlp,prometheus",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
        OTEL_EXPORTER_PROMETHEUS_HOST="127.0.0.1",
        OTEL_EXPORTER_PROMETHEUS_PORT=str(port),
    )
    # The test does not flush. After a flush, the Prometheus reader would keep the collected points, and the next scrape
    # would contain these points twice.
    pipelines = Pipelines(bench.collector, 0.1, lambda *_: None)
    conversation = Conversation(bench)
    for _ in range(5):
        conversation.record([5 * MS] * 10)
        requests = len(sink.received)
        sink.wait_for(lambda received, before=requests: len(received.received) > before, PATIENCE_S)  # type: ignore[misc]
    families = scrape(port)
    pipelines.shutdown()
    fed = packets_fed(bench)
    assert total(sink.points(PACKETS)) == 2 * fed
    rtts = [point.point for point in sink.points(metric_table.RTT.name)]
    assert sum(point.count for point in rtts) == 50
    assert {(point.min, point.max) for point in rtts} == {(0.005, 0.005)}
    assert sum(sample.value for sample in families["epping_network_packet_count"].samples) == 2 * fed
    (count,) = (s.value for s in families["epping_rtt_duration_seconds"].samples if s.name.endswith("_count"))
    assert count == 50


@pytest.mark.unit
@pytest.mark.parametrize(
    ("values", "named", "cure"),
    [
        ({"OTEL_METRICS_EXPORTER": "carrier_pigeon"}, "OTEL_METRICS_EXPORTER", "install its package with pip"),
        ({"OTEL_METRICS_EXPORTER": "none"}, "OTEL_METRICS_EXPORTER", "use otlp or console"),
        ({"OTEL_METRICS_EXPORTER": " , "}, "OTEL_METRICS_EXPORTER", "use otlp or console"),
        ({"OTEL_SDK_DISABLED": "true"}, "OTEL_SDK_DISABLED", "unset it"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "OTEL_EXPORTER_OTLP_PROTOCOL", "use grpc or http/protobuf"),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"},
            "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL",
            "use grpc or http/protobuf",
        ),
    ],
)
def test_wrong_variables_are_named_with_their_cure(
    variables: Callable[..., None], values: dict[str, str], named: str, cure: str
) -> None:
    variables(**values)
    with pytest.raises(EppingError) as failure:
        exporter_classes()
    assert named in str(failure.value)
    assert cure in str(failure.value)
    assert "\n" not in str(failure.value)


def test_an_exporter_that_cannot_be_created_is_named(shared: Bench, variables: Callable[..., None]) -> None:
    variables(OTEL_METRICS_EXPORTER="prometheus", OTEL_EXPORTER_PROMETHEUS_HOST="nowhere.invalid")
    with pytest.raises(EppingError, match="cannot set up the exporter prometheus"):
        Pipelines(shared.collector, 60, lambda *_: None)


@pytest.mark.unit
@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, ["otlp_proto_grpc"]),
        ({"OTEL_METRICS_EXPORTER": "OTLP,console,none"}, ["otlp_proto_grpc", "console"]),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, ["otlp_proto_http"]),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"},
            ["otlp_proto_http"],
        ),
        ({"OTEL_METRICS_EXPORTER": "prometheus"}, ["prometheus"]),
    ],
)
def test_the_variables_select_the_exporters(
    variables: Callable[..., None], values: dict[str, str], names: list[str]
) -> None:
    variables(**values)
    found = exporter_classes()
    assert [name for name, _ in found] == names
    assert all(issubclass(made, (MetricExporter, MetricReader)) for _, made in found)
