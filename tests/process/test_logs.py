# SPDX-License-Identifier: Apache-2.0
"""Tests the log. Every logger writes each event as one line. In the JSON format, even the last line is JSON."""

import json
import logging
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.process import logs
from otel_epping.settings.model import LOG_LEVELS
from tests.support.command import Agent, environment, epping, said
from tests.support.patience import PATIENCE_S, stays
from tests.support.unprivileged import AGENT, assert_unprivileged

pytestmark = pytest.mark.parallel


RFC_3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


def objects(text: str) -> list[dict[str, Any]]:
    """Return the lines of a JSON log as objects. Check that each object has all required fields."""
    found = [json.loads(line) for line in text.splitlines()]
    for each in found:
        assert re.fullmatch(RFC_3339, each["time"]), each
        assert each["level"] in (*LOG_LEVELS, "critical"), each
        assert each["message"], each
        assert each["logger"], each
    return found


def logged(form: str, body: str, level: str = "info") -> subprocess.CompletedProcess[str]:
    """Run Python code in a process with the given log format and level. Return the output of the process."""
    script = f"import logging\nfrom otel_epping.process import logs\nlogs.configure({form!r}, {level!r})\n{body}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S)


# Events of all kinds: (the code, a text in the log line, true if the event is an exception)
EVENTS = {
    "a message": ("logging.getLogger('x').warning('one\\ntwo')", "one two", False),
    "a logged exception": ("try:\n 1 / 0\nexcept Exception:\n logging.getLogger('x').exception('oh')", "oh", True),
    "uncaught": ("def f(): 1 / 0\nf()", "uncaught exception, the process ends", True),
    "uncaught in a thread": (
        "import threading\nthread = threading.Thread(target=lambda: 1 / 0)\nthread.start()\nthread.join()",
        "uncaught exception, the thread ends",
        True,
    ),
    "uncaught in a finalizer": (
        "class X:\n def __del__(self): 1 / 0\nx = X()\ndel x",
        "exception ignored",
        True,
    ),
    "a warning of Python's": ("import warnings\nwarnings.warn('old\\nhat')", "old hat", False),
}


@pytest.mark.unit
@pytest.mark.parametrize("event", EVENTS)
def test_each_event_is_one_line(event: str) -> None:
    body, expected, is_exception = EVENTS[event]
    (line,) = logged("text", body).stderr.splitlines()
    assert re.match(RFC_3339 + r" (WARNING|ERROR|CRITICAL) ", line)
    assert expected in line
    (record,) = objects(logged("json", body).stderr)
    assert expected in record["message"]
    assert ("exception.stacktrace" in record) == is_exception
    if is_exception:
        assert "ZeroDivisionError: division by zero (" in line
        assert record["exception.type"] == "ZeroDivisionError"
        assert record["exception.message"] == "division by zero"
        assert record["exception.stacktrace"].startswith("Traceback (most recent call last):\n")


@pytest.mark.unit
def test_an_uncaught_exception_has_its_traceback_and_the_exit_code() -> None:
    result = logged("text", "def f(): 1 / 0\nf()")
    assert result.returncode == 1
    assert re.search(r"\(<string>:\d+ <module> > <string>:4 f\)$", result.stderr.strip())


@pytest.mark.unit
def test_extra_fields_of_an_event_are_json_fields() -> None:
    body = "logging.getLogger('x').info('seen', extra={'interface': 'eth0', 'packets': 3, 'of': {1, 2}, 'where': b''})"
    (record,) = objects(logged("json", body).stderr)
    assert (record["interface"], record["packets"]) == ("eth0", 3)
    assert record["of"] == "{1, 2}", "a value of a type that JSON does not have is logged as text"
    assert set(record) == {"time", "level", "message", "logger", "thread", "interface", "packets", "of", "where"}


@pytest.mark.unit
def test_control_characters_are_escaped() -> None:
    """The log contains error messages of receivers. The error messages may contain any character."""
    (line,) = logged("text", r"logging.getLogger('x').error('red \x1b[31m\x00 \u2028 café')").stderr.splitlines()
    assert line.endswith(r"ERROR red \x1b[31m\x00 café")


@pytest.mark.unit
@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_levels(level: str, count: int) -> None:
    body = f"for each in {LOG_LEVELS!r}: logging.getLogger('x').log(logging.getLevelName(each.upper()), 'x')"
    assert len(logged("text", body, level).stderr.splitlines()) == count


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_json_log_of_an_agent_is_json_to_the_end(ns: Namespace, start: Callable[..., Agent], protocol: str) -> None:
    """The agent logs at the lowest level, and has no receiver.

    Messages of exporters and the last line are also JSON.
    """
    grpc = protocol == "grpc"
    settings = {"OTEL_EPPING_LOG_FORMAT": "json", "OTEL_EPPING_LOG_LEVEL": "debug"}
    settings |= {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_TIMEOUT": "1000" if grpc else "2000"}
    settings |= {
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hush",
    }
    with Sink(namespace=ns) as sink:
        endpoint = sink.grpc_endpoint if grpc else sink.http_endpoint.removesuffix("/v1/metrics")
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        if grpc:  # the core library of gRPC logs a message when a connection ends
            agent = start("-i", "lo", "-i", "up0", "--interval", "200ms", **settings)
            sink.wait_for(lambda received: received.requests, PATIENCE_S)
    if not grpc:
        agent = start("-i", "lo", "-i", "up0", "--interval", "200ms", **settings)
    agent.wait_for("export failed")
    assert agent.stop() == 1
    records = objects(agent.log.read_text())
    (begun,) = [record for record in records if "interfaces" in record]
    assert begun["interfaces"] == ["lo", "up0"]
    assert begun["kernel_bytes"] > 2**20
    (failed,) = [record for record in records if "export failed" in record["message"]]
    assert failed["exporter"].startswith("otlp_proto_")
    assert failed["message"].startswith(f"{failed['exporter']}: export failed")
    assert endpoint.rpartition(":")[2] in failed["cause"]
    (warning,) = [record for record in records if "OTEL_EXPORTER_OTLP_TIMEOUT" in record["message"]]
    assert warning["level"] == "warning"
    assert records[-1]["level"] == "critical"
    assert records[-1]["message"].startswith("the last interval was not delivered")
    assert "hush" not in agent.log.read_text()


def test_the_last_line_after_a_second_signal_is_json(ns: Namespace, start: Callable[..., Agent]) -> None:
    with ns.entered():
        listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
        agent = start("-i", "lo", "--log-format", "json", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
        agent.process.send_signal(signal.SIGTERM)
        agent.wait_for("stopping")
        stays(lambda: agent.process.poll() is None, 1.2, "the agent waits for the receiver")
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(PATIENCE_S) == 128 + signal.SIGTERM
    assert objects(agent.log.read_text())[-1]["message"].startswith("stopped at once")


def test_an_error_at_the_start_is_json(ns: Namespace) -> None:
    result = epping(ns, "run", "-i", "nowhere", "--log-format", "json")
    assert result.returncode == 1
    (record,) = objects(result.stderr)
    assert record["message"].startswith("there is no interface 'nowhere': choose one of ")
    assert said(epping(ns, "run", "-i", "nowhere")).startswith("there is no interface 'nowhere': choose one of ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--log-format", "xml"], "'xml' is not one of 'text', 'json'"),
        (["--log-level", "loud"], "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
    ],
)
def test_invalid_formats_and_levels_are_errors(ns: Namespace, arguments: list[str], words: str) -> None:
    assert words in said(epping(ns, "run", "-i", "lo", *arguments))


def test_the_agent_continues_if_its_log_cannot_be_written(ns: Namespace) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*AGENT, "run", "-i", "lo", "--interval", "100ms"]
        settings = environment({"OTEL_METRICS_EXPORTER": "console"})
        process = ns.popen(command, stdout=subprocess.PIPE, stderr=full, env=settings)
        assert process.stdout
        try:
            while "resource_metrics" not in process.stdout.readline():
                assert process.poll() is None
            assert_unprivileged(process, log="")
            process.terminate()
            process.communicate(timeout=PATIENCE_S)
            assert process.returncode == 0
        finally:
            process.kill()
            process.wait()


@pytest.mark.unit
def test_the_exit_message_is_text_without_a_log() -> None:
    assert not any(isinstance(handler.formatter, logs._Json) for handler in logging.getLogger().handlers)
    assert logs.exit_message("cause: cure", "a compiler's\nlog") == "a compiler's\nlog\notel-epping: cause: cure"
    assert logs.exit_message("f:1: a\nf:2: b") == "otel-epping: f:1: a\notel-epping: f:2: b"
