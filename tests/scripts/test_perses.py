# SPDX-License-Identifier: Apache-2.0
"""Tests of the dashboard for Perses without Perses. tests/oracles/perses.py checks the dashboard with Perses, and
tests/integration/test_dashboard.py runs the queries."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from scripts import layout, perses
from scripts.panels import ROWS

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "perses" / "dashboard.json"
MADE = perses.dashboard()
PANELS = MADE["spec"]["panels"]
VARIABLES = [variable["spec"] for variable in MADE["spec"]["variables"]]


def test_the_dashboard_for_perses_is_generated() -> None:
    assert json.loads(FILE.read_text()) == MADE, "run `make docs`"


def test_perses_gets_each_query() -> None:
    made = Counter(
        query["spec"]["plugin"]["spec"]["query"].replace("${group:csv}", "$group").replace("] @ end()", "]")
        for panel in PANELS.values()
        for query in panel["spec"]["queries"]
    )
    wanted = [query.expr for panels in ROWS.values() for panel in panels for query in panel.queries]
    assert made == Counter(expr.replace("] @ end()", "]") for expr in wanted)


def test_each_panel_of_perses_has_one_place() -> None:
    shown = []
    for row in MADE["spec"]["layouts"]:
        cells: set[tuple[int, int]] = set()
        for item in row["spec"]["items"]:
            shown.append(item["content"]["$ref"])
            columns = range(item["x"], item["x"] + item["width"])
            mine = set(itertools.product(columns, range(item["y"], item["y"] + item["height"])))
            assert columns.stop <= layout.WIDTH
            assert not mine & cells, shown[-1]
            cells |= mine
    assert sorted(shown) == sorted(f"#/spec/panels/{key}" for key in PANELS)


def test_each_panel_of_perses_explains_itself_and_has_a_unit() -> None:
    for panel in PANELS.values():
        assert panel["spec"]["display"]["description"].endswith(".")
        kind, settings = panel["spec"]["plugin"]["kind"], json.dumps(panel["spec"]["plugin"]["spec"])
        assert '"unit": ' in settings or (kind == "StatusHistoryChart" and " ms" in settings)


def test_each_variable_of_perses_is_used_and_exists() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps([PANELS, VARIABLES])))
    assert used - {"__rate_interval", "__range"} - {"__all", "ref"} == {variable["name"] for variable in VARIABLES}


def test_values_of_variables_have_no_comma() -> None:
    """In the address of the page, Perses splits the list of chosen values at commas."""
    values = [value for variable in VARIABLES for value in variable["plugin"]["spec"].get("values", [])]
    assert len(values) > 8
    assert not [value for value in values if "," in (value if isinstance(value, str) else value["value"])]


def test_classes_of_round_trip_times_have_no_gaps() -> None:
    mappings = PANELS["p95-by-network-and-time"]["spec"]["plugin"]["spec"]["mappings"]
    limits = [(mapping["spec"]["from"], mapping["spec"].get("to")) for mapping in mappings]
    assert limits[0][0] == 0
    assert [end for _, end in limits] == [start for start, _ in limits[1:]] + [None]
    assert len({mapping["spec"]["result"]["color"] for mapping in mappings}) == len(mappings)
