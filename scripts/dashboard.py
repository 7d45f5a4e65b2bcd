# SPDX-License-Identifier: Apache-2.0
"""Prints examples/grafana/dashboard.json from the panels in scripts/panels.py: `python -m scripts.dashboard`."""

import json
from typing import Any

from scripts import layout
from scripts.panels import ROWS, Panel, Query

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Colour-blind people can distinguish these colours. In black-and-white print, a gradient from blue over yellow to red
# would hide differences.
_GRADIENT = "continuous-BlPu"
_HEAT_MAP_COLOURS = "Viridis"


def dashboard() -> dict[str, Any]:
    """Returns the dashboard in the classic model of Grafana."""
    return {
        "uid": layout.NAME,
        "title": layout.TITLE,
        "description": layout.DESCRIPTION,
        "tags": ["otel-epping", "network", "latency"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": layout.REFRESH,
        "time": {"from": f"now-{layout.RANGE}", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": _variables()},
        "panels": _panels(),
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Prometheus",
            "query": "prometheus",
            "refresh": 1,
            "current": {},
        },
        *(_labels(each) for each in layout.LABELS),
        _choice(
            layout.GROUP,
            layout.GROUP_TITLE,
            {group: ", ".join(labels) for group, labels in layout.GROUPS.items()},
            layout.DEFAULT_GROUP,
        ),
        *(
            _choice(name, title, {each: each for each in values}, default)
            for name, title, values, default in layout.TIMES
        ),
    ]


def _labels(variable: layout.Labels) -> dict[str, Any]:
    """Returns a variable with the values of a label. The choice *All* also selects series without the label."""
    query = f"label_values({variable.metric}, {variable.label})"
    return {
        "type": "query",
        "name": variable.name,
        "label": variable.title,
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "labels"},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
    }


def _choice(name: str, title: str, choices: dict[str, str], default: str) -> dict[str, Any]:
    # Grafana splits the list of choices at commas, so commas in a choice are escaped.
    escaped = {text: value.replace(",", "\\,") for text, value in choices.items()}
    return {
        "type": "custom",
        "name": name,
        "label": title,
        "query": ", ".join(text if text == value else f"{text} : {value}" for text, value in escaped.items()),
        "multi": False,
        "includeAll": False,
        "current": {"selected": True, "text": default, "value": choices[default]},
        "options": [{"selected": text == default, "text": text, "value": value} for text, value in choices.items()],
    }


def _panels() -> list[dict[str, Any]]:
    """Returns the panels with their positions. Each row starts with a title."""
    made: list[dict[str, Any]] = []
    top = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": top, "w": layout.WIDTH, "h": 1}
        made.append(
            {"type": "row", "id": len(made) + 1, "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        top += 1
        row = list(layout.placed(panels))
        for panel, x, y in row:
            place = {"x": x, "y": top + y, "w": panel.width, "h": panel.height}
            made.append({"id": len(made) + 1, "gridPos": place, **_panel(panel)})
        top += max(y + panel.height for panel, _, y in row)
    return made


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "noValue": panel.no_value, **_KINDS[panel.kind].get("defaults", {})}
    if panel.kind == "heatmap":
        defaults.pop("unit")  # the unit of the axis is an option
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "targets": [_target(panel, number, query) for number, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(panel)},
        "options": _KINDS[panel.kind]["options"],
        **({"transformations": _one_table(panel)} if panel.kind == "table" else {}),
    }


def _target(panel: Panel, number: int, query: Query) -> dict[str, Any]:
    instant = panel.kind in ("stat", "table")
    return {
        "refId": chr(ord("A") + number),
        "datasource": _DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "instant": instant,
        "range": not instant,
        "interval": layout.EXPORT_INTERVAL,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Returns overrides for the queries that have their own unit. In a table, Grafana finds a column by its name."""
    return [
        {
            "matcher": {"id": "byName", "options": query.legend}
            if panel.kind == "table"
            else {"id": "byFrameRefID", "options": chr(ord("A") + number)},
            "properties": [{"id": "unit", "value": query.unit}],
        }
        for number, query in enumerate(panel.queries)
        if query.unit
    ]


def _one_table(panel: Panel) -> list[dict[str, Any]]:
    """Returns the transformations that join the results of all queries to one table. Each query gets a column."""
    columns = {f"Value #{chr(ord('A') + number)}": query.legend for number, query in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        columns = {"Value": panel.queries[0].legend}
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "job": True},
                "indexByName": {name: index for index, name in enumerate([*layout.COLUMNS, *columns])},
                "renameByName": layout.COLUMNS | columns,
            },
        },
        {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": panel.queries[0].legend, "desc": True}]}},
    ]


_LEGEND = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
# The options of each kind of panel, and the defaults of its fields.
_KINDS: dict[str, dict[str, Any]] = {
    "stat": {
        "options": {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "horizontal",
            "textMode": "value_and_name",
            "colorMode": "none",
            "graphMode": "none",
            "justifyMode": "auto",
        },
    },
    "timeseries": {
        "options": {"legend": _LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}},
        "defaults": {"custom": {"drawStyle": "line", "lineWidth": 1, "fillOpacity": 0, "spanNulls": False}},
    },
    "heatmap": {
        "options": {
            "calculate": False,
            "cellGap": 0,
            "color": {
                "mode": "scheme",
                "scheme": _HEAT_MAP_COLOURS,
                "fill": "dark-orange",
                "scale": "exponential",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
            },
            "filterValues": {"le": 1e-9},
            "yAxis": {
                "unit": "s",
                "axisPlacement": "left",
                "min": layout.HEAT_MAP_LIMITS_S[0],
                "max": layout.HEAT_MAP_LIMITS_S[1],
            },
            "legend": {"show": True},
            "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "showValue": "never",
        },
        "defaults": {"custom": {"scaleDistribution": {"type": "log", "log": 2}}},
    },
    "status-history": {
        "options": {
            "rowHeight": 0.9,
            "colWidth": 1,
            "showValue": "never",
            "perPage": 20,
            "legend": {**_LEGEND, "showLegend": False},
            "tooltip": {"mode": "single", "sort": "none"},
        },
        "defaults": {"color": {"mode": _GRADIENT}, "custom": {"lineWidth": 0, "fillOpacity": 100}},
    },
    "table": {"options": {"showHeader": True, "cellHeight": "sm"}},
}


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
