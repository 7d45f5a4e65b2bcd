# SPDX-License-Identifier: Apache-2.0
"""Runs agents whose receivers send invalid or late responses. Tests the agent's log, and that no count is lost."""

import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table
from tests.support.command import Agent, converse
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S, stays
from tests.support.servers import Answer, HttpServer
from tests.support.stalling_servers import HOLDING, serving
from tests.support.unprivileged import AGENT

HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
DELTA = {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
_RESOLVING = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
FAST = ("-i", "lo", "--interval", "200ms", "--sample-interval", "0")


class Proxy(HttpServer):
    """A proxy that responds with `answer`, which is (status, headers, body).

    `taken` holds the requests that got a response with status 200, no headers and an empty body.
    """

    def __init__(self) -> None:
        self.answer: Answer = (200, {}, b"")
        self.count = 0
        self.taken: list[ExportMetricsServiceRequest] = []
        super().__init__(self._reply)

    def _reply(self, _: Message, body: bytes) -> Answer:
        if self.answer == (200, {}, b""):
            self.taken.append(ExportMetricsServiceRequest.FromString(body))
        self.count += 1
        return self.answer

    def wait_for(self, more: int) -> None:
        deadline, until = time.monotonic() + PATIENCE_S, self.count + more
        while self.count < until:
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def sums(self, name: str) -> int:
        """Return the sum of all points of a metric. With delta temporality, the sum of all points is the total
        count."""
        return sum(
            int(point.count if kind == "exponential_histogram" else point.as_int)
            for request in self.taken
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for kind in [metric.WhichOneof("data") or ""]
            for point in getattr(metric, kind).data_points
        )


@pytest.fixture
def proxy(ns: Namespace) -> Iterator[Proxy]:
    with ns.entered():
        server = Proxy()
    with server:
        yield server


def causes(agent: Agent) -> list[str]:
    return re.findall(r"export failed, counts stay pending for the next export: (.*)", agent.log.read_text())


ANSWERS: list[tuple[tuple[int, dict[str, str], bytes], str]] = [
    ((302, {"Location": "https://login.example/"}, b""), "HTTP 302 Found, which redirects to https://login.example/"),
    (
        (200, {"Content-Type": "text/html"}, b"<html>log in</html>"),
        "HTTP 200 OK, but the response is not OTLP",
    ),
    ((403, {}, b"no"), "HTTP 403 Forbidden: no"),
]


@pytest.mark.parametrize(("reply", "words"), ANSWERS, ids=["redirect", "login page", "forbidden"])
def test_a_response_other_than_otlp_acknowledges_nothing(
    ns: Namespace, proxy: Proxy, start: Callable[..., Agent], reply: Any, words: str
) -> None:
    """A response that is not OTLP acknowledges nothing.

    After the receiver starts to respond correctly, all counts arrive, with delta temporality. The agent's own metrics
    arrive too.
    """
    proxy.answer = reply
    agent = start(*FAST, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{proxy.server_port}", **HTTP, **DELTA)
    proxy.wait_for(2)
    converse(ns)
    proxy.wait_for(3)
    failed = proxy.count
    proxy.answer = (200, {}, b"")
    agent.wait_for("exports succeed again")
    proxy.wait_for(2)
    assert agent.stop() == 0
    (cause,) = causes(agent)
    assert cause.startswith(words)
    assert proxy.sums(metric_table.RTT.name) >= 20
    assert proxy.sums(agent_metrics.EXPORT_FAILED.name) >= failed
    assert proxy.sums(agent_metrics.INTERFACE_EVENTS.name) == 1, "one event: the interface was attached"
    assert proxy.sums("epping.interface.packet.count") * 2 == proxy.sums(metric_table.SUBNET_PACKETS.name)


def test_each_cause_is_logged_once_while_exports_fail(proxy: Proxy, start: Callable[..., Agent]) -> None:
    replies = [(302, {"Location": "/login"}, b""), (404, {}, b""), (400, {}, b"a"), (302, {"Location": "/login"}, b"")]
    proxy.answer = replies[0]
    agent = start(*FAST, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{proxy.server_port}", **HTTP)
    for reply in replies:
        proxy.answer = reply
        proxy.wait_for(3)
    assert [cause[:8] for cause in causes(agent)] == ["HTTP 302", "HTTP 404", "HTTP 400"]
    proxy.answer = (200, {}, b"")
    agent.wait_for("exports succeed again")
    proxy.answer = replies[0]
    agent.wait_for("export failed", times=4)
    assert agent.stop() == 1


def test_a_receiver_that_asks_for_an_hour_gets_only_the_last_export(proxy: Proxy, start: Callable[..., Agent]) -> None:
    proxy.answer = (429, {"Retry-After": "3600"}, b"slow down")
    agent = start(*FAST, OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{proxy.server_port}", **HTTP, **DELTA)
    proxy.wait_for(1)
    time.sleep(1)
    assert proxy.count == 1
    assert causes(agent) == ["HTTP 429 Too Many Requests: slow down (Retry-After: 3600 s)"]
    proxy.answer = (200, {}, b"")
    assert agent.stop() == 0
    # The wait ends when the agent stops. One periodic export may start before the export of the last interval.
    assert 2 <= proxy.count <= 3, "the agent exports the last interval before it ends"


def probe(ns: Namespace, path: str) -> tuple[int, str]:
    with ns.entered():
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:8090{path}?verbose", timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def counts_are_read(ns: Namespace) -> bool:
    """Return true if no export succeeds, but counts are still read.

    The latest reading must not be older than two intervals plus one second.
    """
    status, text = probe(ns, "/readyz")
    return status == 503 and "[+]read ok" in text


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_receiver_that_never_completes_a_response_delays_no_reading(
    ns: Namespace, start: Callable[..., Agent], protocol: str
) -> None:
    """The agent reads counts at each interval, and its liveness probe succeeds."""
    with ns.entered():
        dripping = serving(HOLDING["chunks" if protocol == "http/protobuf" else "silent"])
        with dripping as server:
            agent = start(
                *("-i", "lo", "--interval", "200ms", "--health-port", "8090"),
                OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{server.port}",
                OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                OTEL_EXPORTER_OTLP_TIMEOUT="500",
            )
            agent.wait_for("export failed")
            stays(lambda: counts_are_read(ns), 2, "the export in progress does not delay readings")
            if protocol != "grpc":  # Over gRPC, several calls use the same connection.
                eventually(lambda: server.connections >= 3, PATIENCE_S, "further exports are tried")
            assert probe(ns, "/livez")[0] == 200
            assert counts_are_read(ns)
            began = time.monotonic()
            assert agent.stop() == 1
            assert time.monotonic() - began < 3
    assert len(causes(agent)) == 1


@pytest.mark.parametrize("preference", ["delta", "cumulative", "lowmemory"])
def test_all_points_have_the_requested_temporality(ns: Namespace, start: Callable[..., Agent], preference: str) -> None:
    """All metrics have the requested temporality, even if the agent limits the number of series.

    With the preference "lowmemory", the specification makes asynchronous counters cumulative. Up-down counters are
    always cumulative.
    """
    with Sink(namespace=ns) as sink:
        agent = start(
            *FAST,
            *("--idle-timeout", "1m", "--max-series", "10", "--roll-up"),
            OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint,
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference,
        )
        converse(ns)
        sink.wait_for(lambda received: len(received.requests) > 3, PATIENCE_S)
        assert agent.stop() == 0
    found: dict[str, set[int]] = {}
    for _, metric in sink.metrics():
        kind = metric.WhichOneof("data") or ""
        data = getattr(metric, kind)
        if kind == "exponential_histogram" or (kind == "sum" and data.is_monotonic):
            found.setdefault(metric.name, set()).add(data.aggregation_temporality)
        else:
            assert kind == "gauge" or data.aggregation_temporality == 2, metric.name
    asynchronous = {
        agent_metrics.EXPORT_FAILED.name,
        agent_metrics.INTERFACE_EVENTS.name,
        agent_metrics.FLOW_EVICTED.name,
    }
    asynchronous |= {
        agent_metrics.EXPORT_REJECTED.name,
        agent_metrics.PROGRAM_RUNS.name,
        agent_metrics.PROGRAM_TIME.name,
    }
    assert found.keys() >= {metric_table.RTT.name, agent_metrics.SUBNET_RETIRED.name, *asynchronous} - {
        agent_metrics.PROGRAM_RUNS.name,
        agent_metrics.PROGRAM_TIME.name,
    }
    for name, temporalities in found.items():
        delta = preference == "delta" or (preference == "lowmemory" and name not in asynchronous)
        assert temporalities == {1 if delta else 2}, name


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_explicit_buckets_are_exported_if_a_variable_asks_for_them(
    ns: Namespace, start: Callable[..., Agent], protocol: str
) -> None:
    with Sink(namespace=ns) as sink:
        endpoint = sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint.removesuffix("/v1/metrics")
        agent = start(
            *FAST,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="explicit_bucket_histogram",
        )
        converse(ns)
        sink.wait_for(lambda received: received.points(metric_table.RTT.name), PATIENCE_S)
        sink.fail_with(403)
        agent.wait_for("export failed")
        sink.recover()
        agent.wait_for("exports succeed again")
        assert agent.stop() == 0
    metrics = [metric for _, metric in sink.metrics() if metric.name == metric_table.RTT.name]
    assert {metric.WhichOneof("data") for metric in metrics} == {"histogram"}
    for point in metrics[-1].histogram.data_points:
        assert sum(point.bucket_counts) == point.count
        assert len(point.bucket_counts) == len(point.explicit_bounds) + 1
    assert sum(point.count for point in metrics[-1].histogram.data_points) >= 20


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_silent_dns_server_delays_no_reading(
    ns: Namespace, start: Callable[..., Agent], public: Path, protocol: str
) -> None:
    """If the DNS server does not respond, the C library waits at least 10 s. The wait for the DNS server cannot be
    interrupted."""
    resolver = public / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    with ns.entered(), socket.socket(type=socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 53))
        agent = start(
            *("-i", "lo", "--interval", "200ms", "--health-port", "8090"),
            command=["unshare", "--mount", "sh", "-c", _RESOLVING, str(resolver), *AGENT],
            OTEL_EXPORTER_OTLP_ENDPOINT="http://collector.test:4318",
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_EXPORTER_OTLP_TIMEOUT="500",
        )
        agent.wait_for("export failed")
        stays(lambda: counts_are_read(ns), 2, "the query in progress does not delay readings")
        assert silent.recv(512), "the DNS server got a query"
        began = time.monotonic()
        assert agent.stop() == 1
        assert time.monotonic() - began < 3
    assert causes(agent)
    assert all("collector.test:4318" in cause for cause in causes(agent))
