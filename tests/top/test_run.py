# SPDX-License-Identifier: Apache-2.0
"""Tests how `otel-epping top` starts and ends its screen, and the causes of missing RTTs, without a kernel program."""

import logging
import sys
from dataclasses import replace
from functools import partialmethod
from types import SimpleNamespace
from typing import Any

import pytest

from otel_epping.errors import EppingError
from otel_epping.history.columns import ColumnKey
from otel_epping.history.slice import AgentValues, Rtts
from otel_epping.otel import metric_table
from otel_epping.settings.model import Settings
from otel_epping.top import run
from otel_epping.top.app import TopApp
from otel_epping.top.reasons import reasons
from otel_epping.top.session import Session
from otel_epping.top.view import View
from tests.top.provider import Provider

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

NO_FILES: Any = SimpleNamespace(networks=None, databases=None)


@pytest.mark.parametrize("handler", ["on_mount", "on_updated"])
def test_an_exception_in_a_handler_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], handler: str
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(TopApp, handler, fail)
    monkeypatch.setattr(TopApp, "run", partialmethod(TopApp.run, headless=True))
    with pytest.raises(EppingError, match="the screen has ended because of an error"):
        run._show(Session(), None, "wan0", View(), run.Options(), NO_FILES)
    assert "a defect" in capsys.readouterr().err


def test_a_missing_package_is_reported_before_the_capture_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SIGNALS", ())
    monkeypatch.delitem(sys.modules, "otel_epping.top.app")
    monkeypatch.setitem(sys.modules, "textual.binding", None)
    with pytest.raises(EppingError, match=r"the screen needs textual: pip install 'otel-epping\[top\]'"):
        run._run(Settings(), NO_FILES, run.Options(files=("missing.pcap",)))


@pytest.mark.parametrize(("flows", "is_named"), [(1, False), (30, True)])
def test_one_direction_is_the_cause_only_if_nearly_all_flows_have_one_direction(flows: int, is_named: bool) -> None:
    session = Session()
    slice = Provider(session.history.numbering, 12).slice()  # 30 flows, each with two ends
    key = ColumnKey(metric_table.UNIDIRECTIONAL.name, (("interface", "wan0"), ("reverse", "missing")))
    session.add(replace(slice, rtts=Rtts.empty(), agent=AgentValues({**slice.agent, key: flows})))
    found = reasons(session.frame(None), "wan0", is_live=True)
    assert found[0].startswith("Only one direction of the traffic passes the interface") == is_named
    assert "1,000 packets were seen on wan0, but no RTT was measured." in found


def test_log_messages_are_escaped() -> None:
    log = run._LogLines()
    log.emit(logging.LogRecord("otel_epping", logging.INFO, "", 0, "name %s", ("a\x1b[31m\n\udcff",), None))
    assert log.lines[0].endswith(r" name a\x1b[31m\x0a\xff")
