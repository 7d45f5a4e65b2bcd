# SPDX-License-Identifier: Apache-2.0
"""Tests of the Grafana dashboard without Grafana and without Prometheus. `make integration` runs the queries of the
dashboard."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from otel_epping.otel import metric_table, semconv
from scripts import dashboard
from tests.support.json_fields import lost

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "grafana" / "dashboard.json"
MADE = dashboard.dashboard()
PANELS = MADE["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]


def test_the_dashboard_is_generated() -> None:
    assert json.loads(FILE.read_text()) == MADE, "run `make docs`"


@pytest.mark.filterwarnings("ignore:Prefer using dashboardv2:DeprecationWarning")
def test_grafana_knows_each_field() -> None:
    """The SDK is generated from Grafana's schemas of dashboards, panels and queries. The SDK drops unknown fields."""
    pytest.importorskip("grafana_foundation_sdk", reason="the SDK needs Python 3.11")
    from grafana_foundation_sdk.cog import encoder, plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    plugins.register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(MADE), cls=encoder.JSONEncoder))
    assert lost(MADE, read) == []
    wrong = {**MADE, "panels": [{**PANELS[1], "options": {"graphMod": "none"}}]}
    read = json.loads(json.dumps(Dashboard.from_json(wrong), cls=encoder.JSONEncoder))
    assert lost(wrong, read) == ["/panels[]/options/graphMod"]


def test_panels_have_places_that_do_not_overlap() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        mine = set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))
        assert columns.stop <= 24
        assert not mine & cells, panel["title"]
        cells |= mine


def test_each_panel_explains_itself_and_has_a_unit() -> None:
    for panel in PANELS:
        if panel["type"] != "row":
            assert panel["description"].endswith("."), panel["title"]
            unit = panel["fieldConfig"]["defaults"].get("unit") or panel["options"]["yAxis"]["unit"]
            assert unit, panel["title"]


def test_heat_maps_have_a_logarithmic_axis_with_limits() -> None:
    """Without limits, the axis extends to the outermost bucket."""
    (heat_map,) = (panel for panel in PANELS if panel["type"] == "heatmap")
    assert heat_map["fieldConfig"]["defaults"]["custom"]["scaleDistribution"] == {"type": "log", "log": 2}
    assert 0 < heat_map["options"]["yAxis"]["min"] < heat_map["options"]["yAxis"]["max"]


def test_each_variable_is_used_and_exists() -> None:
    variables = {each["name"] for each in MADE["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used - {"__rate_interval", "__range"} == variables


def test_each_metric_and_label_exists() -> None:
    groups = yaml.safe_load((ROOT / "examples" / "prometheus" / "rules.yaml").read_text())["groups"]
    rules = [rule["expr"] for group in groups for rule in group["rules"]]
    names = [metric.name for metric in metric_table.METRICS]
    suffixes = ("", "_total", "_seconds", "_bytes", "_bytes_total")
    metrics = {name.replace(".", "_") + suffix for name, suffix in itertools.product(names, suffixes)}
    labels = {name.replace(".", "_") for name in semconv.ATTRIBUTES}
    for name in re.findall(r"\b(?:epping|network|otel|geo)_\w+", "".join([*EXPRESSIONS, *rules])):
        assert name in metrics | labels, name
