# SPDX-License-Identifier: Apache-2.0
"""Prints docs/metrics.md from the tables of metrics and attributes: `python -m scripts.metrics_page`."""

from otel_epping.otel import metric_table, semconv


def markdown() -> str:
    """Returns the text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "`make docs` generates this page from `otel_epping/otel/metric_table.py`. Edit that file instead of this page.",
        "",
        "| metric | kind | unit | description | attributes |",
        "|---|---|---|---|---|",
    ]
    for metric in metric_table.METRICS:
        keys = ", ".join(f"`{key}`" for key in metric.keys)
        lines.append(f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {metric.description} | {keys} |")
    lines += ["", "| attribute | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {meaning} |" for key, meaning in semconv.ATTRIBUTES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
