# SPDX-License-Identifier: Apache-2.0
"""Tests that secrets in headers and endpoints never appear in the output, at any log level and after any error."""

import logging
from collections.abc import Callable

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.process import redaction
from tests.support.command import Agent, epping, said
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.parallel


# Four headers: a valid header, a header whose value has a line break (no transport accepts it), a header without a
# name, and a header with an invalid name.
HEADERS = ["authorization=Bearer s3cr3t-one", "x-key=s3cr3t%0Atwo", "s3cr3t;three", "Authorization: Basic s3cr3t=="]


VARIABLES = {
    "OTEL_METRICS_EXPORTER": "otlp_proto_grpc,otlp_proto_http",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://somebody:s3cr3t-four@127.0.0.1:9/?key=s3cr3t-five",
    "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
}


@pytest.mark.parametrize("header", HEADERS[1:])
def test_no_error_has_a_secret(ns: Namespace, header: str) -> None:
    settings = VARIABLES | {"OTEL_EXPORTER_OTLP_HEADERS": header, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://s3cr3t@:9"}
    error = said(epping(ns, "run", "-i", "lo", settings=settings))
    assert "OTEL_EXPORTER_OTLP_HEADERS is invalid" in error
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in error
    assert "s3cr3t" not in error


def test_no_log_has_a_secret(start: Callable[..., Agent]) -> None:
    agent = start(
        *("-i", "lo", "--interval", "300ms", "--log-level", "debug"),
        OTEL_EXPORTER_OTLP_HEADERS=HEADERS[0],
        **VARIABLES,
    )
    agent.wait_for("export failed, counts stay pending")
    agent.process.terminate()
    assert agent.process.wait(PATIENCE_S) == 1
    log = agent.log.read_text()
    assert "DEBUG" in log
    assert "s3cr3t" not in log


@pytest.mark.unit
@pytest.mark.parametrize(
    ("variable", "value", "text", "redacted"),
    [
        (
            "HEADERS",
            "authorization=Bearer%20abc%2Fdef",
            "sent 'Bearer abc/def', that is abc/def",
            "sent '{}', that is {}",
        ),
        ("METRICS_HEADERS", "a=first, b=second=", "first second= secon", "{} {} secon"),
        ("HEADERS", "key=line%0Abreak", r"header b'line\nbreak'", "header b'{}'"),
        ("HEADERS", "x=1", "1 of 1", "1 of 1"),
        ("METRICS_ENDPOINT", "https://me:pass@host:4317", "to me:pass@host:4317, pass", "to {}@host:4317, {}"),
        ("ENDPOINT", "https://token@host/?key=1234", "token at host, key=1234", "{} at host, key={}"),
        ("ENDPOINT", "http://me:pass@host", "sent Basic bWU6cGFzcw==", "sent Basic {}"),
        ("ENDPOINT", "https://host:4317", "to host:4317", "to host:4317"),
    ],
)
def test_a_secret_is_hidden_in_all_its_forms(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str, redacted: str
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", value)
    assert redaction.redact(text) == redacted.replace("{}", redaction.HIDDEN)


@pytest.mark.unit
def test_tracebacks_are_logged_without_secrets(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "".join(["s3", "cr3t"])  # the secret must not be in the source lines that a traceback shows
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization={secret}")
    # pytest restores the record factory after the test
    monkeypatch.setattr(logging, "_logRecordFactory", logging.getLogRecordFactory())
    redaction.install()
    try:
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise ValueError(f"cannot send {secret}") from error
    except ValueError as error:
        logging.exception("failed with %s: %s", secret, error)
    try:
        raise ValueError("harmless")
    except ValueError:
        logging.exception("failed")
    logging.warning("%d of %d", 1, 2)
    assert secret not in caplog.text
    assert f"ValueError: cannot send {redaction.HIDDEN}" in caplog.text
    assert "process/test_redaction.py" in caplog.text  # the traceback names the file that logged the error
    assert "\nValueError: harmless" in caplog.text
    assert "1 of 2" in caplog.text
