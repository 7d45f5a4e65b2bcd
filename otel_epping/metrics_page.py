# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md, made from the table of telemetry.py: `python -m otel_epping.metrics_page > docs/metrics.md`."""

from otel_epping import conventions, telemetry


def markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Made from `otel_epping/telemetry.py` by `make docs`; edit there.",
        "",
        "| metric | kind | unit | description | attributes |",
        "|---|---|---|---|---|",
    ]
    for metric in telemetry.METRICS:
        keys = ", ".join(f"`{key}`" for key in metric.keys)
        lines.append(f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {metric.description} | {keys} |")
    lines += ["", "| attribute | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {meaning} |" for key, meaning in conventions.ATTRIBUTES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
