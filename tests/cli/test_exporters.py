# SPDX-License-Identifier: Apache-2.0
"""Tests exporters that `OTEL_*` variables select: their output, the log for a dead endpoint, and invalid settings."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from tests.support.certificates import Authority
from tests.support.command import COMMAND, Agent, epping, said
from tests.support.patience import PATIENCE_S, stays
from tests.support.unprivileged import NOBODY_UID


def free_port(ns: Namespace) -> int:
    with ns.entered(), socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_console_prints_json(ns: Namespace, start: Callable[..., Agent]) -> None:
    agent = start("-i", "lo", "--interval", "300ms", output=subprocess.PIPE, OTEL_METRICS_EXPORTER="console")
    agent.process.send_signal(signal.SIGINT)
    stdout, _ = agent.process.communicate(timeout=PATIENCE_S)
    assert agent.process.returncode == 0
    decoder, documents = json.JSONDecoder(), []
    while stdout.strip():
        document, end = decoder.raw_decode(stdout := stdout.lstrip())
        documents.append(document)
        stdout = stdout[end:]
    (resource,) = documents[-1]["resource_metrics"]
    assert resource["resource"]["attributes"]["service.name"] == "otel-epping"
    assert "epping.agent.subnet.limit" in json.dumps(resource["scope_metrics"])


# Over HTTP, the exporter reports the cause only when it sends the request again, one second later.
@pytest.mark.parametrize(("protocol", "timeout_s"), [("grpc", "0.5"), ("http/protobuf", "2")])
def test_a_dead_endpoint_is_logged_once_and_exports_are_repeated(
    ns: Namespace, start: Callable[..., Agent], protocol: str, timeout_s: str
) -> None:
    port = free_port(ns)
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    agent = start("-i", "lo", "--interval", "200ms", OTEL_EXPORTER_OTLP_TIMEOUT=timeout_s, **settings)
    agent.wait_for("export failed, counts stay pending")
    stays(lambda: agent.log.read_text().count("export failed") == 1, 2, "a cause is logged once")
    grpc = protocol == "grpc"
    with Sink(grpc_port=port if grpc else 0, http_port=0 if grpc else port, namespace=ns) as sink:
        sink.wait_for(lambda received: received.requests, PATIENCE_S)
        agent.wait_for("exports succeed again")
        sink.fail_with(503)
        agent.wait_for("export failed", times=2)
        assert agent.stop() == 1
    log = agent.log.read_text()
    assert log.count("export failed") == 2
    assert str(port) in log  # the log line contains the cause, and the cause names the port
    assert log.splitlines()[-1].startswith("otel-epping: the last interval was not delivered")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"OTEL_METRICS_EXPORTER": "foo"}, "OTEL_METRICS_EXPORTER: there is no exporter 'foo'"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'smoke', which is not supported: use grpc or http/protobuf",
        ),
        (
            {"OTEL_METRIC_EXPORT_INTERVAL": "60s"},
            "OTEL_METRIC_EXPORT_INTERVAL is '60s', which is not a number of milliseconds: write 60000",
        ),
        ({"OTEL_METRIC_EXPORT_TIMEOUT": "-5", "OTEL_RESOURCE_ATTRIBUTES": "x"}, "2 errors in OTEL_* variables: "),
        (
            {"OTEL_EXPORTER_OTLP_CLIENT_KEY": "/a/key", "OTEL_EXPORTER_OTLP_ENDPOINT": "https://h:1"},
            "OTEL_EXPORTER_OTLP_CLIENT_KEY is '/a/key', but OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not set",
        ),
    ],
    ids=lambda value: (
        "-".join(f"{name}={setting}" for name, setting in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_invalid_settings_are_errors(ns: Namespace, settings: dict[str, str], words: str) -> None:
    assert words in said(epping(ns, "run", "-i", "lo", settings=settings))


def test_settings_that_are_probably_mistakes_are_warnings(ns: Namespace, start: Callable[..., Agent]) -> None:
    """The exporter uses a setting that is probably a mistake, but logs a warning. If the specification allows the
    setting, there is no warning."""
    with Sink(namespace=ns) as sink:
        agent = start(
            *("-i", "lo", "--interval", "200ms"),
            OTEL_EXPORTER_OTLP_ENDPOINT=f" {sink.grpc_endpoint.upper()}/ \n",
            OTEL_EXPORTER_OTLP_PROTOCOL="GRPC",
            OTEL_EXPORTER_OTLP_METRICS_TIMEOUT="",
            OTEL_EXPORTER_OTLP_TIMEOUT="10000",
            OTEL_EXPORTER_OTLP_COMPRESSION="None",
            OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="Delta",
            OTEL_METRIC_EXPORT_TIMEOUT=" ",
            OTEL_METRICS_EXEMPLAR_FILTER="",
            OTEL_RESOURCE_ATTRIBUTES="site=a%20b,,",
        )
        sink.wait_for(lambda received: len(received.requests) > 2, PATIENCE_S)
        assert agent.stop() == 0
        assert {point.resource["site"] for point in sink.points("epping.agent.subnet.limit")} == {"a b"}
    (line,) = [line for line in agent.log.read_text().splitlines() if " WARNING " in line]
    assert "OTEL_EXPORTER_OTLP_TIMEOUT=10000 is read as milliseconds, 10 s" in line


def test_a_name_that_cannot_be_resolved(start: Callable[..., Agent]) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://garbage:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    agent = start("-i", "lo", **endpoint)
    assert agent.stop() == 1
    log = agent.log.read_text()
    assert "garbage:4318: the name cannot be resolved" in log
    assert log.splitlines()[-1].endswith("is OTEL_EXPORTER_OTLP_ENDPOINT right?")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_key_that_only_capabilities_could_read(ns: Namespace, tmp_path: Path, protocol: str) -> None:
    """Root can read all files because of a capability. The agent drops the capability to read all files before it
    creates the exporters."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("client")
    os.chown(key, int(NOBODY_UID), -1)
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:4444",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificate),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key),
    }
    result = epping(ns, "run", "-i", "lo", command=COMMAND, settings=settings)
    assert f"OTEL_EXPORTER_OTLP_CLIENT_KEY is '{key}', which cannot be read: Permission denied" in said(result)
