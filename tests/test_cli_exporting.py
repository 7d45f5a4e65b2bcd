# SPDX-License-Identifier: Apache-2.0
"""Exporters by `OTEL_*` variables: what arrives, how a dead endpoint is told of, and settings that cannot work."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest
from command import Agent, epping, said
from patience import PATIENCE_S

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.sink import Sink


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
    assert "epping.collector.subnet.limit" in json.dumps(resource["scope_metrics"])


# Over HTTP the exporter tells the cause when it tries again, for which it needs a second.
@pytest.mark.parametrize(("protocol", "timeout_s"), [("grpc", "0.5"), ("http/protobuf", "2")])
def test_dead_endpoint_is_told_once_and_tried_on(
    ns: Namespace, start: Callable[..., Agent], protocol: str, timeout_s: str
) -> None:
    port = free_port(ns)
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    agent = start("-i", "lo", "--interval", "200ms", OTEL_EXPORTER_OTLP_TIMEOUT=timeout_s, **settings)
    agent.wait_for("export failed, counts are kept")
    time.sleep(2)
    assert agent.log.read_text().count("export failed") == 1
    grpc = protocol == "grpc"
    with Sink(grpc_port=port if grpc else 0, http_port=0 if grpc else port, namespace=ns) as sink:
        sink.wait_for(lambda received: received.requests, PATIENCE_S)
        agent.wait_for("exports get through again")
        sink.fail_with(503)
        agent.wait_for("export failed", times=2)
        assert agent.stop() == 1
    log = agent.log.read_text()
    assert log.count("export failed") == 2
    assert str(port) in log  # the cause, and not only that there is one
    assert log.splitlines()[-1].startswith("otel-epping: the last interval was not delivered")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"OTEL_METRICS_EXPORTER": "foo"}, "OTEL_METRICS_EXPORTER: there is no exporter 'foo'"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'smoke', which is not supported: use grpc or http/protobuf",
        ),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "Invalid IPv6 URL"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "-5"}, "interval value -5.0 is invalid"),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "x"}, "exemplar filter"),
    ],
    ids=lambda value: (
        "-".join(f"{name}={setting}" for name, setting in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_settings_that_cannot_work(ns: Namespace, settings: dict[str, str], words: str) -> None:
    assert words in said(epping(ns, "run", "-i", "lo", settings=settings))


def test_settings_that_are_passed_over_with_a_warning(ns: Namespace, start: Callable[..., Agent]) -> None:
    warnings = {
        "OTEL_METRIC_EXPORT_INTERVAL": "invalid value for export interval, using default",
        "OTEL_METRIC_EXPORT_TIMEOUT": "invalid value for export timeout, using default",
        "OTEL_RESOURCE_ATTRIBUTES": "Invalid key value resource attribute pair garbage",
        "OTEL_EXPORTER_OTLP_HEADERS": "Header format invalid",
    }
    with Sink(namespace=ns) as sink:
        # Not the same for headers: what stands there is hidden wherever it is logged.
        settings = dict.fromkeys(warnings, "garbage") | {"OTEL_EXPORTER_OTLP_HEADERS": "rubbish"}
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.grpc_endpoint
        agent = start("-i", "lo", **settings)
        assert agent.stop() == 0
        assert sink.requests
    log = agent.log.read_text()
    assert [name for name, warning in warnings.items() if warning not in log] == []


def test_endpoint_that_is_none(start: Callable[..., Agent]) -> None:
    agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT="garbage", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert agent.stop() == 1
    log = agent.log.read_text()
    assert "garbage" in log
    assert log.splitlines()[-1].endswith("is OTEL_EXPORTER_OTLP_ENDPOINT right?")
