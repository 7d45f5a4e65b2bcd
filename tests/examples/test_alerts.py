# SPDX-License-Identifier: Apache-2.0
"""Tests of the alerts in examples/prometheus and of their runbooks. `make integration` runs the rules."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
GROUPS = yaml.safe_load((ROOT / "examples" / "prometheus" / "rules.yaml").read_text())["groups"]
ALERTS = [rule for group in GROUPS for rule in group["rules"] if "alert" in rule]
URL = "https://github.com/otel-epping/otel-epping/blob/main/docs/runbooks/"


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_says_what_is_wrong_and_has_a_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert alert["annotations"]["runbook_url"] == f"{URL}{alert['alert']}.md"
    page = (RUNBOOKS / f"{alert['alert']}.md").read_text()
    assert page.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["Meaning", "Check", "Causes and cures"]
    assert f"severity: {alert['labels']['severity']}" in page


def test_each_runbook_has_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.iterdir()} == {alert["alert"] for alert in ALERTS}


def test_docs_list_each_alert() -> None:
    page = (ROOT / "docs" / "dashboards.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]\(runbooks/\1\.md\)", page, re.MULTILINE) == [alert["alert"] for alert in ALERTS]
