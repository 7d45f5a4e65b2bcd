# SPDX-License-Identifier: Apache-2.0
"""Prints examples/grafana/dashboard.json from the panels in scripts/panels.py: `python -m scripts.dashboard`."""

import json
from typing import Any

from scripts.panels import ROWS, Panel, Query

_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH = 24
# The agent exports every minute by default. $__rate_interval is then at least 4 minutes.
_EXPORT_INTERVAL = "1m"
# Colour-blind-safe colours. A gradient from blue over yellow to red would hide differences in print.
_GRADIENT = "continuous-BlPu"
_HEAT_MAP_COLOURS = "Viridis"
# Without limits, a heat map stretches to the outermost bucket that ever had a count.
_HEAT_MAP_LIMITS_S = (0.0001, 10)

# The labels that a group of networks has. Grafana separates the choices by commas, so commas in a choice are escaped.
_GROUPS = {
    "network": "epping_network_name, epping_subnet",
    "AS": "network_peer_as_number, network_peer_as_organization_name",
    "country": "geo_country_iso_code",
}
_WINDOWS = ("5m", "15m", "1h", "6h")
_BASELINES = ("1h", "6h", "1d", "7d")


def dashboard() -> dict[str, Any]:
    """Returns the dashboard in the classic model of Grafana."""
    return {
        "uid": "otel-epping",
        "title": "Network latency (otel-epping)",
        "description": "Round-trip times per network, measured passively. Guide: docs/dashboards.md of otel-epping.",
        "tags": ["otel-epping", "network", "latency"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
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
        _labels_of("epping_agent_interface_attached", "instance", "agent", "Agent"),
        _labels_of("epping_agent_interface_attached", "network_interface_name", "interface", "Interface"),
        _labels_of("epping_rtt_duration_seconds", "epping_rtt_side", "side", "Side"),
        _labels_of("epping_rtt_duration_seconds", "epping_rtt_method", "method", "Method"),
        _choice("group", "Group by", _GROUPS, "network"),
        _choice("window", "Now: the last", {each: each for each in _WINDOWS}, "15m"),
        _choice("baseline", "Before: earlier by", {each: each for each in _BASELINES}, "1h"),
    ]


def _labels_of(metric: str, label: str, name: str, title: str) -> dict[str, Any]:
    """Returns a variable that has the values of a label. All also includes series without the label."""
    query = f"label_values({metric}, {label})"
    return {
        "type": "query",
        "name": name,
        "label": title,
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
    """Returns the panels with their places: each row starts with a title, and is filled from the left."""
    made: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        place = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
        made.append(
            {"type": "row", "id": len(made) + 1, "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > _WIDTH:
                x, y, height = 0, y + height, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            made.append({"id": len(made) + 1, "gridPos": place, **_panel(panel)})
            x, height = x + panel.width, max(height, panel.height)
        y += height
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
        "interval": _EXPORT_INTERVAL,
        "format": {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series"),
    }


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Returns the units of queries whose unit is not the unit of the panel. Columns of a table are found by name."""
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
    """Returns the transformations that join the results of all queries to one table, with a column for each query."""
    columns = {f"Value #{chr(ord('A') + number)}": query.legend for number, query in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        columns = {"Value": panel.queries[0].legend}
    labels = {
        "epping_network_name": "Network",
        "epping_subnet": "Subnet",
        "network_peer_as_number": "AS",
        "network_peer_as_organization_name": "Organisation",
        "geo_country_iso_code": "Country",
        "epping_rtt_side": "Side",
        "network_interface_name": "Interface",
        "instance": "Agent",
    }
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "job": True},
                "indexByName": {name: index for index, name in enumerate([*labels, *columns])},
                "renameByName": labels | columns,
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
                "min": _HEAT_MAP_LIMITS_S[0],
                "max": _HEAT_MAP_LIMITS_S[1],
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
