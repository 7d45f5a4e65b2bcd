# SPDX-License-Identifier: Apache-2.0
"""Prints docs/metrics.md from the tables of metrics and attributes: `python -m scripts.metrics_page`."""

from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric import ECN_GROUP, GROUPS
from otel_epping.otel.metric_selection import ALL, MetricSelection, attributes_of

_HEAD = """# Metrics

`make docs` generates this page and the folder `schemas` from `otel_epping/otel/metric_table.py`,
`otel_epping/otel/agent_metrics.py` and `otel_epping/otel/semconv.py`. Edit these files instead of this page.

The folder [schemas](../schemas) contains the same tables as a registry of semantic conventions, in the format of
OpenTelemetry's own registry. A test compares all exported metrics with this registry. The registry also contains the
requirement level of each attribute. The program [Weaver](https://github.com/open-telemetry/weaver) reads the registry:

- `weaver registry check -r schemas` checks the registry.
- `weaver registry live-check -r schemas --include-unreferenced` receives metrics over OTLP, and reports each metric and
  attribute that the registry does not define. Without `--include-unreferenced`, Weaver does not know the attributes of
  OpenTelemetry.
- `weaver registry generate -r schemas` generates code or pages from the registry.

All names have the stability level `development`. They may change in any release before 1.0.0.
"""


_NETWORKS = """\
A point of a subnet or of a covering prefix has `epping.subnet` and `network.type`. A point of a named network has
`epping.network.name` and `epping.network.tag.<tag>` instead. AS numbers, AS organisations and countries need a
database. See [networks.md](networks.md).
"""


_GROUPS = """## Groups

The setting `metrics` is a list of groups. `all` stands for all groups. `core`, the default, stands for all groups
except `ecn`, without these metrics and attributes:

{core}

If a metric is in several elements of the list, the metric has the attributes of all these elements: `core,traffic`
exports `core`, and the group `traffic` with all its attributes.

The setting `attributes` selects the attributes that the metrics of a group keep, by their short names. For example,
`rtt=subnet,side;traffic=side,direction` exports one histogram per subnet and side, and the traffic of all subnets
together. The table contains the short names. A selected attribute has no effect on a metric without this
attribute.
""".format(
    core="\n".join(
        f"- {without}"
        for metric, keys in MetricSelection((ALL,)).exported.items()
        if metric.group != ECN_GROUP
        for kept in [MetricSelection().exported.get(metric)]
        if (
            without := f"`{metric.name}`"
            if kept is None
            else ", ".join(f"`{key}` of `{metric.name}`" for key in keys if key not in kept)
        )
    )
)
_NEEDED = """A needed attribute cannot be left out, because a sum of the counts that it distinguishes would be
wrong or meaningless:
"""


def _group(group: str) -> str:
    """Returns the row of a group in the table of groups."""
    names = attributes_of(group)
    needed = [name for name, key in names.items() if semconv.ATTRIBUTES[key].needed]
    cells = ([name for name in names if name not in needed], needed)
    return " | ".join([f"| `{group}`", *(", ".join(f"`{name}`" for name in cell) for cell in cells)]) + " |"


def _meaning(attribute: semconv.Attribute) -> str:
    values = "; ".join(f"`{value}`: {meaning}" for value, meaning in attribute.values.items())
    return " ".join(filter(None, [attribute.brief, values and f"{values}.", attribute.note]))


def markdown() -> str:
    """Returns the text of docs/metrics.md."""
    lines = [
        _HEAD,
        "| metric | group | kind | unit | description | attributes |",
        "|---|---|---|---|---|---|",
    ]
    for metric in metric_table.METRICS:
        keys = ", ".join(f"`{key}`" for key in metric.keys)
        lines.append(
            f"| `{metric.name}` | `{metric.group}` | {metric.kind} | `{metric.unit}` | {metric.description} | {keys} |"
        )
    lines += ["", _NETWORKS, "| attribute | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {_meaning(attribute)} |" for key, attribute in semconv.ATTRIBUTES.items()]
    lines += ["", _GROUPS, "| group | attributes that may be left out | attributes that are needed |", "|---|---|---|"]
    lines += [_group(group) for group in GROUPS]
    lines += ["", _NEEDED, "| attribute | why it is needed |", "|---|---|"]
    lines += [
        f"| `{each.short}` (`{key}`) | {each.needed} |" for key, each in semconv.ATTRIBUTES.items() if each.needed
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
