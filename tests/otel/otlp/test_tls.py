# SPDX-License-Identifier: Apache-2.0
"""Tests TLS with real servers: settings in variables, renewed certificates, and variables for other programs."""

import logging
import shutil
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.official_exporters import build
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender
from otel_epping.otel.otlp.transport import sender
from otel_epping.otel.variables import standard
from tests.support.certificates import Authority
from tests.support.otlp_receiver import GRPC, HTTP
from tests.support.servers import Answer as HttpAnswer
from tests.support.servers import HttpServer, grpc_server
from tests.support.stalling_servers import serving

pytestmark = pytest.mark.unit


REQUEST = Request(b"", 0)
Reply = Callable[[Message, bytes], HttpAnswer]


@contextmanager
def https(folder: Path, client_ca: Path | None, reply: Reply = lambda headers, body: (200, {}, b"")) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    if client_ca:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    with HttpServer(reply, context) as server:
        yield server.server_port


@contextmanager
def grpcs(folder: Path, client_ca: Path | None) -> Iterator[int]:
    pair = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
    ca = client_ca.read_bytes() if client_ca else None
    credentials = grpc.ssl_server_credentials([pair], ca, client_ca is not None)
    with grpc_server(lambda body, context: b"", credentials, [("grpc.so_reuseport", 0)]) as port:
        yield port


def listening(protocol: str, folder: Path, client_ca: Path | None = None) -> Any:
    return (grpcs if protocol == GRPC else https)(folder, client_ca)


@contextmanager
def sending(protocol: str, port: int, **variables: str) -> Iterator[RequestSender]:
    """Yield the sender of an agent whose environment contains `variables`."""
    said = standard.read(
        {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"https://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc" if protocol == GRPC else "http/protobuf",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            **{f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()},
        }
    )
    ((name, otlp),) = said.otlp.items()
    exporter = build(name, GrpcExporter if protocol == GRPC else HttpExporter, otlp)
    found = sender(exporter, otlp.certificates)
    assert found
    yield found
    exporter.shutdown()


def _authority(folder: Path) -> Authority:
    authority = Authority(folder)
    authority.issue("server")
    authority.issue("client")
    return authority


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Two CAs. Each CA has issued one certificate for `server` and one for `client`. Tests use copies of all files."""
    return _authority(tmp_path_factory.mktemp("ca")), _authority(tmp_path_factory.mktemp("other"))


@pytest.fixture
def authority(issued: tuple[Authority, Authority], tmp_path: Path) -> Authority:
    """A copy of the files of the first CA."""
    return issued[0].copy_to(tmp_path)


@pytest.fixture
def renewed(issued: tuple[Authority, Authority], tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A copy of the files of the second CA, which replaces the first CA."""
    return issued[1].copy_to(tmp_path_factory.mktemp("renewed"))


@pytest.fixture(params=[GRPC, HTTP])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_certificates_of_receiver_and_client_are_checked(protocol: str, authority: Authority) -> None:
    folder = authority.folder
    trusted = {"CERTIFICATE": str(authority.pem)}
    pair = {"CLIENT_CERTIFICATE": str(folder / "client.pem"), "CLIENT_KEY": str(folder / "client.key")}
    with listening(protocol, folder) as port:
        with sending(protocol, port, **trusted) as one:
            assert one.send(REQUEST) == Answer()
        with sending(protocol, port) as one:
            answer = one.send(REQUEST)
            assert answer.failure
            assert (
                "check that OTEL_EXPORTER_OTLP_CERTIFICATE is the certificate of the receiver's CA"
                in answer.failure.text
            )
    with listening(protocol, folder, authority.pem) as port:
        with sending(protocol, port, **trusted, **pair) as one:
            assert one.send(REQUEST) == Answer()
        with sending(protocol, port, **trusted) as one:
            assert one.send(REQUEST).failure


def test_certificate_and_key_in_one_file(protocol: str, authority: Authority) -> None:
    both = authority.folder / "both.pem"
    both.write_bytes(b"".join((authority.folder / f"client.{each}").read_bytes() for each in ("key", "pem")))
    files = {"CERTIFICATE": str(authority.pem), "CLIENT_CERTIFICATE": str(both)}
    with listening(protocol, authority.folder, authority.pem) as port, sending(protocol, port, **files) as one:
        assert one.send(REQUEST) == Answer()


def test_a_renewed_ca_is_read_again(protocol: str, authority: Authority, renewed: Authority) -> None:
    """The receiver already has a certificate of the new CA.

    The test replaces the CA file by rename(2), as mv(1) does.
    """
    files = {"CERTIFICATE": str(authority.pem)}
    with listening(protocol, renewed.folder) as port, sending(protocol, port, **files) as one:
        assert one.send(REQUEST).failure
        replacement = authority.folder / "new"
        shutil.copy(renewed.pem, replacement)
        replacement.rename(authority.pem)
        assert one.send(REQUEST) == Answer()


def test_a_renewed_client_certificate_is_read_again(
    protocol: str, authority: Authority, renewed: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """The test replaces the client's certificate, and then its key, by files of another CA.

    While the key does not match the new certificate, the sender uses the old certificate with the old key. Later, the
    receiver changes to the other CA, too.
    """
    certificate, key = renewed.folder / "client.pem", renewed.folder / "client.key"
    ours = authority.folder
    files = {"CLIENT_CERTIFICATE": str(ours / "client.pem"), "CLIENT_KEY": str(ours / "client.key")}
    with (
        listening(protocol, ours, authority.pem) as port,
        sending(protocol, port, CERTIFICATE=str(authority.pem), **files) as one,
        caplog.at_level(logging.INFO),
    ):
        assert one.send(REQUEST) == Answer()
        shutil.copy(certificate, ours / "client.pem")
        assert one.send(REQUEST) == Answer()
        assert one.send(REQUEST) == Answer()
        (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert "renewed certificates are not used yet: OTEL_EXPORTER_OTLP_CLIENT_KEY is " in warning
        shutil.copy(key, ours / "client.key")
        assert one.send(REQUEST).failure, "the sender uses the new pair, whose CA this receiver does not trust"
        assert "certificates were renewed" in caplog.text
    with (
        listening(protocol, ours, renewed.pem) as port,
        sending(protocol, port, CERTIFICATE=str(authority.pem), **files) as one,
    ):
        assert one.send(REQUEST) == Answer()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_certificate_of_the_exporter_takes_precedence(
    authority: Authority, renewed: Authority, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with listening(HTTP, authority.folder) as port:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)  # takes precedence over CURL_CA_BUNDLE
        monkeypatch.setenv(variable, str(renewed.pem))
        with sending(HTTP, port, CERTIFICATE=str(authority.pem)) as one:
            assert one.send(REQUEST) == Answer()
        monkeypatch.setenv(variable, str(authority.pem))
        with sending(HTTP, port) as one:
            assert one.send(REQUEST) == Answer(), "the variables of other programs are used if ours is not set"


def test_a_header_takes_precedence_over_netrc_and_url(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login nobody password nothing\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[str] = []

    def reply(headers: Message, _: bytes) -> HttpAnswer:
        seen.append(headers["Authorization"])
        return 200, {}, b""

    with https(authority.folder, None, reply) as port:
        for endpoint in (f"https://127.0.0.1:{port}", f"https://me:pass@127.0.0.1:{port}"):
            certificate = {"CERTIFICATE": str(authority.pem), "ENDPOINT": endpoint}
            with sending(HTTP, port, HEADERS="authorization=Bearer%20ours", **certificate) as one:
                assert one.send(REQUEST) == Answer()
            assert seen[-1] == "Bearer ours"
        with sending(HTTP, port, **certificate) as one:
            assert one.send(REQUEST) == Answer()
        assert seen[-1] == "Basic bWU6cGFzcw=="


def test_a_receiver_without_tls_is_reported(protocol: str) -> None:
    """The receiver does not use TLS. The receiver responds to the TLS handshake with an HTTP response."""

    def refuse(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with serving(refuse) as server, sending(protocol, server.port) as one:
        answer = one.send(REQUEST)
    assert answer.failure
    assert "the receiver does not speak TLS: use http:// in the endpoint" in answer.failure.text


def test_a_receiver_of_the_other_protocol_is_reported(protocol: str, authority: Authority) -> None:
    other = HTTP if protocol == GRPC else GRPC
    with listening(other, authority.folder) as port, sending(protocol, port, CERTIFICATE=str(authority.pem)) as one:
        answer = one.send(REQUEST)
    assert answer.failure
