# SPDX-License-Identifier: Apache-2.0
"""Prints docs/metrics.md from the tables of metrics and attributes: `python -m scripts.metrics_page`."""

from otel_epping.otel import metric_table, semconv

_HEAD = """# Metrics

`make docs` generates this page and the folder `schemas` from `otel_epping/otel/metric_table.py` and
`otel_epping/otel/semconv.py`. Edit these files instead of this page.

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


def _meaning(attribute: semconv.Attribute) -> str:
    values = "; ".join(f"`{value}`: {meaning}" for value, meaning in attribute.values.items())
    return " ".join(filter(None, [attribute.brief, values and f"{values}.", attribute.note]))


def markdown() -> str:
    """Returns the text of docs/metrics.md."""
    lines = [
        _HEAD,
        "| metric | kind | unit | description | attributes |",
        "|---|---|---|---|---|",
    ]
    for metric in metric_table.METRICS:
        keys = ", ".join(f"`{key}`" for key in metric.keys)
        lines.append(f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {metric.description} | {keys} |")
    lines += ["", "| attribute | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {_meaning(attribute)} |" for key, attribute in semconv.ATTRIBUTES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
