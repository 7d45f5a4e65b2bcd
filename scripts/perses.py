# SPDX-License-Identifier: Apache-2.0
"""Prints examples/perses/dashboard.json from the panels in scripts/panels.py: `python -m scripts.perses`.

docs/dashboards.md lists the differences from the dashboard for Grafana. `tests/oracles/perses.py` checks the file with
Perses itself.
"""

import json
import re
from typing import Any

from scripts import layout
from scripts.panels import ROWS, Panel, Query

_DATASOURCE = "$datasource"
_FORMATS: dict[str, dict[str, Any]] = {
    "s": {"unit": "seconds"},
    "bytes": {"unit": "bytes", "shortValues": True},
    "bps": {"unit": "decbits/sec", "shortValues": True},
    "cps": {"unit": "counts/sec", "shortValues": True},
    "percentunit": {"unit": "percent-decimal"},
    "short": {"unit": "decimal", "shortValues": True},
}
# A status history of Perses has classes of values instead of a gradient. The colours of the classes, from low to high,
# are ColorBrewer's BuPu.
_CLASSES_MS = (2, 5, 10, 20, 50, 100, 200, 500)
_COLOURS = ("#f7fcfd", "#e0ecf4", "#bfd3e6", "#9ebcda", "#8c96c6", "#8c6bb1", "#88419d", "#810f7c", "#4d004b")
_WIDTH_OF_ANOTHER_UNIT = 2


def dashboard() -> dict[str, Any]:
    """Returns the dashboard in the model of Perses 0.54."""
    rows = {title: [part for panel in panels for part in _parts(panel)] for title, panels in ROWS.items()}
    return {
        "kind": "Dashboard",
        "metadata": {"name": layout.NAME},
        "spec": {
            "display": {"name": layout.TITLE, "description": layout.DESCRIPTION},
            "duration": layout.RANGE,
            "refreshInterval": layout.REFRESH,
            "variables": _variables(),
            "panels": {_key(panel): _panel(panel) for panels in rows.values() for panel in panels},
            "layouts": [_row(title, panels) for title, panels in rows.items()],
        },
    }


def _variables() -> list[dict[str, Any]]:
    groups = [label for labels in layout.GROUPS.values() for label in labels]
    return [
        _variable("datasource", "Prometheus", "DatasourceVariable", {"datasourcePluginKind": "PrometheusDatasource"}),
        *(
            _variable(
                name,
                title,
                "PrometheusLabelValuesVariable",
                {"datasource": _DATASOURCE, "labelName": label, "matchers": [metric]},
                allowAllValue=True,
                allowMultiple=True,
                customAllValue=".*",
                defaultValue=["$__all"],
                sort="alphabetical-asc",
            )
            for name, title, metric, label in layout.LABELS
        ),
        # In the address of the page, Perses separates the chosen values by commas. So a value cannot contain a comma.
        _variable(
            layout.GROUP,
            layout.GROUP_TITLE,
            "StaticListVariable",
            {"values": [{"label": layout.COLUMNS[label], "value": label} for label in groups]},
            allowMultiple=True,
            defaultValue=list(layout.GROUPS[layout.DEFAULT_GROUP]),
        ),
        *(
            _variable(name, title, "StaticListVariable", {"values": list(values)}, defaultValue=default)
            for name, title, values, default in layout.TIMES
        ),
    ]


def _variable(name: str, title: str, kind: str, spec: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {
        "kind": "ListVariable",
        "spec": {
            "name": name,
            "display": {"name": title, "hidden": False},
            "allowAllValue": False,
            "allowMultiple": False,
            **options,
            "plugin": {"kind": kind, "spec": spec},
        },
    }


def _parts(panel: Panel) -> list[Panel]:
    """Returns the panels that show a panel in Perses: stat panels have only one unit, and tables the whole width."""
    if panel.kind == "table":
        return [panel._replace(width=layout.WIDTH)]
    others = [query for query in panel.queries if panel.kind == "stat" and query.unit]
    if not others:
        return [panel]
    return [
        panel._replace(
            queries=[query for query in panel.queries if not query.unit],
            width=panel.width - _WIDTH_OF_ANOTHER_UNIT * len(others),
        ),
        *(
            panel._replace(title=query.legend, unit=query.unit, queries=[query], width=_WIDTH_OF_ANOTHER_UNIT)
            for query in others
        ),
    ]


def _key(panel: Panel) -> str:
    return re.sub(r"\W+", "-", panel.title).strip("-").lower()


def _row(title: str, panels: list[Panel]) -> dict[str, Any]:
    items = [
        {
            "x": x,
            "y": y,
            "width": panel.width,
            "height": panel.height,
            "content": {"$ref": f"#/spec/panels/{_key(panel)}"},
        }
        for panel, x, y in layout.placed(panels)
    ]
    return {"kind": "Grid", "spec": {"display": {"title": title, "collapse": {"open": True}}, "items": items}}


def _panel(panel: Panel) -> dict[str, Any]:
    kind, spec = _PLUGINS[panel.kind]
    return {
        "kind": "Panel",
        "spec": {
            "display": {"name": panel.title, "description": panel.description},
            "plugin": {"kind": kind, "spec": spec(panel)},
            "queries": [_query(panel, query) for query in panel.queries],
        },
    }


def _query(panel: Panel, query: Query) -> dict[str, Any]:
    expr = query.expr.replace(f"${layout.GROUP}", f"${{{layout.GROUP}:csv}}")
    if panel.kind == "stat":
        # A stat panel of Perses 0.54 has no instant queries. Prometheus evaluates an expression with a fixed time
        # only once, and not at each step.
        expr = re.sub(r"(\[\$(window|__range)\])", r"\1 @ end()", expr)
    spec = {"datasource": _DATASOURCE, "query": expr, "minStep": layout.EXPORT_INTERVAL}
    if query.legend:
        spec["seriesNameFormat"] = query.legend
    return {
        "kind": "TimeSeriesQuery",
        "spec": {"plugin": {"kind": "PrometheusTimeSeriesQuery", "spec": spec}},
    }


def _stat(panel: Panel) -> dict[str, Any]:
    return {
        "calculation": "last-number",
        "format": _FORMATS[panel.unit],
        "legendMode": "on",
        "colorMode": "none",
    }


def _time_series(panel: Panel) -> dict[str, Any]:
    return {
        "legend": {"position": "bottom", "mode": "list"},
        "yAxis": {"format": _FORMATS[panel.unit]},
        "visual": {"lineWidth": 1, "areaOpacity": 0, "connectNulls": False},
    }


def _heat_map(panel: Panel) -> dict[str, Any]:
    least, greatest = layout.HEAT_MAP_LIMITS_S
    return {
        "yAxisFormat": _FORMATS[panel.unit],
        "countFormat": _FORMATS["cps"],
        "showVisualMap": True,
        "logBase": 10,
        "min": least,
        "max": greatest,
    }


def _status_history(_: Panel) -> dict[str, Any]:
    limits = (0, *_CLASSES_MS)
    mappings = [
        {"from": least / 1e3, "to": most / 1e3, "result": {"value": f"{least} to {most} ms", "color": colour}}
        for least, most, colour in zip(limits, _CLASSES_MS, _COLOURS, strict=False)
    ]
    most = limits[-1]
    mappings.append({"from": most / 1e3, "result": {"value": f"more than {most} ms", "color": _COLOURS[-1]}})
    return {"mappings": [{"kind": "Range", "spec": each} for each in mappings]}


def _table(panel: Panel) -> dict[str, Any]:
    """Returns a table with one line per network. Perses adds columns of labels that are not listed at the end."""
    unlisted = {label for group in layout.GROUPS.values() for label in group} - set(layout.GROUPS[layout.DEFAULT_GROUP])
    labels = [{"name": name, "header": text} for name, text in layout.COLUMNS.items() if name not in unlisted]
    values: list[dict[str, Any]] = [
        {"name": f"value #{number}", "header": query.legend, "format": _FORMATS[query.unit or panel.unit]}
        for number, query in enumerate(panel.queries, 1)
    ]
    values[0]["sort"] = "desc"
    return {
        "density": "compact",
        "transforms": [{"kind": "MergeSeries", "spec": {}}],
        "columnSettings": [
            *({**column, "enableSorting": True} for column in [*labels, *values]),
            {"name": "timestamp", "hide": True},
        ],
    }


# For each kind of panel: the plugin of Perses, and the function that returns the settings of the plugin.
_PLUGINS = {
    "stat": ("StatChart", _stat),
    "timeseries": ("TimeSeriesChart", _time_series),
    "heatmap": ("HeatMapChart", _heat_map),
    "status-history": ("StatusHistoryChart", _status_history),
    "table": ("Table", _table),
}


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
