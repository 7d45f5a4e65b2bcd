# SPDX-License-Identifier: Apache-2.0
"""Tests the log of exports. Each cause of a failure is logged once. Each message of an exporter is also logged once."""

import subprocess
import sys

import pytest

from otel_epping.otel.otlp.failure import kind_of
from tests.support.patience import PATIENCE_S

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


_BEGIN = """
import logging
from otel_epping.process import logs
from otel_epping.otel.export_status import ExportStatus
from otel_epping.otel.otlp.failure import Failure
logs.configure("text", "info")
delivery = ExportStatus()
exporters = logging.getLogger("opentelemetry.exporter.otlp.proto.http.metric_exporter")
"""


def logged(script: str) -> list[str]:
    """Return the lines of the log without the time at the start of each line."""
    run = [sys.executable, "-c", _BEGIN + script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return [line.partition(" ")[2] for line in done.stderr.splitlines()]


def test_each_cause_is_logged_once_until_exports_arrive() -> None:
    lines = logged("""
for failure in [Failure("refused by 10.0.0.1:1", "refused"), Failure("refused by 10.0.0.2:2", "refused"),
                Failure("HTTP 404", "404"), Failure("refused", "refused"), None, None, Failure("refused", "refused")]:
    delivery("otlp", failure)
delivery("other", Failure("refused", "refused"))
assert delivery.failing == ("otlp", "other")
""")
    failed = "export failed, counts stay pending for the next export: "
    assert lines == [
        f"WARNING otlp: {failed}refused by 10.0.0.1:1",
        f"WARNING otlp: {failed}HTTP 404",
        "WARNING otlp: exports succeed again after 4 failed exports; pending counts were delivered",
        f"WARNING otlp: {failed}refused",
        f"WARNING other: {failed}refused",
    ]


def test_messages_of_exporters_are_logged_once_and_serve_as_the_cause() -> None:
    lines = logged("""
for seconds in (1.25, 2.5):
    exporters.warning("Transient error, retrying in %.2fs", seconds)
    exporters.error("Failed to export")
    exporters.debug("not at this level")
    delivery("otlp", Failure("", ""))
logging.getLogger("urllib3.connectionpool").warning("Failed to parse headers (url=http://a:4318)")
logging.getLogger("urllib3.connectionpool").warning("Failed to parse headers (url=http://a:4318)")
""")
    assert lines == [
        "WARNING Transient error, retrying in 1.25s",
        "ERROR Failed to export",
        "WARNING otlp: export failed, counts stay pending for the next export: "
        "Transient error, retrying in 1.25s / Failed to export",
        "WARNING Failed to parse headers (url=http://a:4318)",
    ]


def test_the_memory_for_causes_is_limited() -> None:
    lines = logged("""
for turn in range(2):
    for number in range(1000):
        exporters.warning("x" * number)
assert len(delivery._exporters_log._once._kinds) < 100
""")
    assert len(lines) == 2000, "old causes are forgotten, and therefore logged again"


def test_addresses_times_and_ids_do_not_make_another_cause() -> None:
    texts = [
        "ipv4:10.0.0.1:4317: Connection refused, retrying in 1.06s (id 0x7f00aa11)",
        "ipv4:10.0.0.2:9: Connection refused, retrying in 12.5s (id 0x7f00aa22)",
    ]
    assert len({kind_of(text) for text in texts}) == 1
    assert kind_of("Connection refused") != kind_of("Connection reset")
