# SPDX-License-Identifier: Apache-2.0
"""Tests that no receiver can delay a request beyond its deadline, and that the exporter respects Retry-After."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

from bench.fresh_process import measure_usage
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel.otlp import http_exchange, retries
from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender
from otel_epping.otel.otlp.transport import sender
from tests.support.otlp_receiver import GRPC, HTTP
from tests.support.patience import PATIENCE_S
from tests.support.servers import Answer as HttpAnswer
from tests.support.servers import HttpServer, grpc_server
from tests.support.stalling_servers import FLOODING, HOLDING, serving

pytestmark = pytest.mark.unit


TIMEOUT_S = 0.3
REQUEST = Request(bytes(2**21), 1)  # More bytes than the sockets can buffer while the receiver does not read.


@contextmanager
def sending(protocol: str, endpoint: str, timeout_s: float = TIMEOUT_S, **options: Any) -> Iterator[RequestSender]:
    """Yield a sender, and shut its exporter down at the end."""
    exporter = (GrpcExporter if protocol == GRPC else HttpExporter)(endpoint, timeout=timeout_s, **options)
    found = sender(exporter)
    assert found
    yield found
    exporter.shutdown()


def timed(sender: RequestSender, request: Request = REQUEST) -> tuple[Answer, float]:
    began = time.monotonic()
    answer = sender.send(request)
    return answer, time.monotonic() - began


@pytest.fixture
def no_thread_is_left() -> Iterator[None]:
    """Checks that the abandoned threads of a test end soon after the test has ended."""
    yield
    deadline = time.monotonic() + PATIENCE_S
    while any(thread.name == http_exchange.THREAD_NAME for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("manners", HOLDING)
@pytest.mark.parametrize("protocol", [GRPC, HTTP])
def test_the_deadline_holds_whatever_a_receiver_does(protocol: str, manners: str, tls: bool) -> None:
    """If the test uses TLS, the TLS handshake never completes."""
    with serving(HOLDING[manners]) as server:
        endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
        with sending(protocol, endpoint) as one:
            for _ in range(2):
                answer, seconds = timed(one)
                assert answer.failure
                assert seconds < TIMEOUT_S + 0.5
                assert f"127.0.0.1:{server.port}" in answer.failure.text


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("manners", FLOODING)
def test_a_huge_response_takes_little_memory(manners: str) -> None:
    with serving(FLOODING[manners]) as server, sending(HTTP, f"http://127.0.0.1:{server.port}", 5) as one:
        timed(one)
        with measure_usage() as spent:
            answer, seconds = timed(one)
        assert answer.failure
        assert "the response is not OTLP" in answer.failure.text
        assert seconds < 4
        assert spent.peak_mb < 64


def test_a_silent_resolver_blocks_one_thread_and_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """getaddrinfo() has only the timeouts of resolv.conf(5), which can add up to half a minute or more."""
    go_on, asked = threading.Event(), []

    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        asked.append(arguments[0])
        go_on.wait(PATIENCE_S)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with sending(HTTP, "http://collector.test:4318") as one:
        for _ in range(3):
            answer, seconds = timed(one)
            assert answer.failure
            assert "collector.test:4318: no answer of a DNS server within" in answer.failure.text
            assert TIMEOUT_S - 0.1 < seconds < TIMEOUT_S + 0.4
        assert asked == ["collector.test"], "the exports share one thread for the query"
        go_on.set()
        answer, _ = timed(one)
        assert answer.failure
        assert "collector.test:4318: the name cannot be resolved" in answer.failure.text


def test_a_silent_address_leaves_time_for_the_next_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name has two addresses. Only the second address accepts connections."""
    with Sink() as sink, socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        where = [full.getsockname(), ("127.0.0.1", sink.http_port)]
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in where]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with sending(HTTP, "http://collector.test:4318/v1/metrics", 2) as one:
            answer, seconds = timed(one, Request(b"", 0))
        assert answer == Answer()
        assert 0.9 < seconds < 2
        for filler in fillers:
            filler.close()


def test_an_abandoned_request_is_not_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the abandoned request were sent later, the receiver would get the same deltas twice."""
    resolve, go_on = socket.getaddrinfo, threading.Event()

    def late(*arguments: Any, **options: Any) -> Any:
        go_on.wait(PATIENCE_S)
        return resolve(*arguments, **options)

    with Sink() as sink:
        with sending(HTTP, sink.http_endpoint) as one:
            monkeypatch.setattr(socket, "getaddrinfo", late)
            assert timed(one, Request(b"", 0))[0].failure
            go_on.set()
            assert timed(one, Request(b"", 0))[0] == Answer()
        assert len(sink.received) == 1


class Replies(HttpServer):
    """A server that responds to each request with the next status and headers.

    `times` holds the times of the requests.
    """

    def __init__(self, *replies: tuple[int, dict[str, str]]) -> None:
        self.times: list[float] = []
        left = list(replies)

        def reply(_: Message, __: bytes) -> HttpAnswer:
            self.times.append(time.monotonic())
            return (*(left.pop(0) if left else (200, {})), b"")

        super().__init__(reply)


def test_retry_after_is_respected_between_tries() -> None:
    with Replies((503, {"Retry-After": "1"})) as server, sending(HTTP, f"{server.url}/v1/metrics", 5) as one:
        assert one.send(REQUEST) == Answer()
    first, second = server.times
    assert 0.9 < second - first < 1.5


@pytest.mark.parametrize("value", ["3600", "1e300", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_the_next_exports_respect_retry_after_beyond_the_deadline(value: str) -> None:
    with Replies((429, {"Retry-After": value})) as server, sending(HTTP, f"{server.url}/v1/metrics", 1) as one:
        answer, seconds = timed(one)
        assert answer.failure
        assert seconds < 1
        assert "HTTP 429" in answer.failure.text
        assert one.pause == answer.failure
        assert 0 < one._next_s - time.monotonic() <= retries.MAX_PAUSE_S
        one.end_pause()
        assert one.pause is None
        assert one.send(REQUEST) == Answer()
        assert one.pause is None


@pytest.mark.parametrize("value", ["0", "-1", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_a_retry_after_of_zero_does_not_cause_many_tries(value: str) -> None:
    with Replies(*[(503, {"Retry-After": value})] * 20) as server, sending(HTTP, f"{server.url}/v1/metrics", 5) as one:
        assert one.send(REQUEST).failure
        assert len(server.times) == 6
        assert one.pause is None


class Grpc:
    """A gRPC server that responds with a status and with trailing metadata. The metadata are (name, value) pairs."""

    def __init__(self, code: grpc.StatusCode, *metadata: tuple[str, str | bytes]) -> None:
        self.calls = 0

        def export(_: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls += 1
            context.set_trailing_metadata(metadata)
            context.abort(code, "no room")

        self._export = export

    @contextmanager
    def listening(self) -> Iterator[str]:
        with grpc_server(self._export, options=[("grpc.max_receive_message_length", -1)]) as port:
            yield f"http://127.0.0.1:{port}"


def details(seconds: int) -> bytes:
    """Return error details in gRPC's "richer error model". The details ask the client to wait."""
    packed = AnyMessage()
    packed.Pack(RetryInfo(retry_delay=Duration(seconds=seconds)))
    return bytes(Status(code=8, details=[packed]).SerializeToString())


@pytest.mark.parametrize(
    "metadata",
    [
        ("grpc-status-details-bin", details(3600)),
        ("google.rpc.retryinfo-bin", RetryInfo(retry_delay=Duration(seconds=3600)).SerializeToString()),
        ("grpc-retry-pushback-ms", "3600000"),
    ],
    ids=lambda pair: pair[0],
)
@pytest.mark.parametrize("code", [grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE])
def test_a_grpc_server_that_asks_to_wait_gets_no_request(code: grpc.StatusCode, metadata: tuple[str, Any]) -> None:
    server = Grpc(code, metadata)
    with server.listening() as endpoint, sending(GRPC, endpoint, 2) as one:
        answer, seconds = timed(one)
        assert answer.failure
        assert f"{code.name}: no room" in answer.failure.text
        assert "asks to wait for 3600 s" in answer.failure.text
        assert (server.calls, one.pause) == (1, answer.failure)
        assert seconds < 1.5


@pytest.mark.parametrize(
    ("code", "metadata"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ()),
        (grpc.StatusCode.UNIMPLEMENTED, ()),
        (grpc.StatusCode.INTERNAL, ()),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, (("grpc-status-details-bin", b"\xff\xff"),)),
    ],
)
def test_a_request_is_not_repeated_after_a_final_grpc_status(code: grpc.StatusCode, metadata: Any) -> None:
    server = Grpc(code, *metadata)
    with server.listening() as endpoint, sending(GRPC, endpoint, 5) as one:
        answer, seconds = timed(one)
    assert answer.failure
    assert code.name in answer.failure.text
    assert (server.calls, one.pause) == (1, None)
    assert seconds < 2


def test_a_proxy_is_used_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with sending(HTTP, "http://collector.test:4318/v1/metrics", 1) as one:
        with Replies((200, {"Connection": "close"})) as proxy:
            port = proxy.server_port
            monkeypatch.setenv("http_proxy", f"http://me:s3cr3t@127.0.0.1:{port}")
            assert one.send(REQUEST) == Answer()
        answer = one.send(REQUEST)
        assert answer.failure
        assert f"collector.test:4318 through the proxy 127.0.0.1:{port}: " in answer.failure.text
        assert "s3cr3t" not in answer.failure.text
        with serving(HOLDING["headers"]) as server:
            monkeypatch.setenv("http_proxy", f"127.0.0.1:{server.port}")
            answer, seconds = timed(one)
        assert answer.failure
        assert seconds < 1.5
