# SPDX-License-Identifier: Apache-2.0
"""Writes a report as JSON. docs/report.schema.json describes the format."""

import json
from typing import Any

from otel_epping.report.document import Report, ReportTable

# This number changes if a key is removed or gets another meaning.
VERSION = 1


def as_json(report: Report) -> str:
    """Returns the report as JSON text. Times are in seconds, shares are from 0 to 1, rates are in bit/s."""
    return json.dumps(as_data(report), allow_nan=False, separators=(",", ":")) + "\n"


def as_data(report: Report) -> dict[str, Any]:
    """Returns the report as JSON data."""
    return {
        "version": VERSION,
        "about": {key: value for key, _, value in report.about},
        "thresholds": report.options["thresholds"],
        "sections": {
            section.key: {
                "title": section.title,
                "sentences": list(section.sentences),
                "figures": {
                    figure.key: {"caption": figure.caption, "samples": figure.samples, "data": figure.data}
                    for figure in section.figures
                },
                "tables": {table.key: _table(table) for table in section.tables},
            }
            for section in report.sections
        },
        "notes": list(report.notes),
    }


def _table(table: ReportTable) -> dict[str, Any]:
    keys = [column.key for column in table.columns]
    return {"caption": table.caption, "rows": [dict(zip(keys, row, strict=True)) for row in table.rows]}
