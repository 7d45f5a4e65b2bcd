# SPDX-License-Identifier: Apache-2.0
"""Prints the table of networks as text, CSV or JSON. The packages textual and rich are not needed."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from otel_epping.history.line import Line
from otel_epping.kernel.arrays import Indexes
from otel_epping.top import head, text
from otel_epping.top.columns import COLUMNS
from otel_epping.top.frame import Frame, summary
from otel_epping.top.view import View, shown_lines

_LABELS = ("kind", "group", "subnet", "name", "as", "organization", "country", "interface", "side")


class Printer:
    """Makes the output of each iteration.

    `format` is `table`, `csv` or `json`. `source` names the interfaces or the captures.
    """

    def __init__(self, format: str, source: str) -> None:
        self._format, self._source = format, source
        self._is_first = True

    def output(self, frame: Frame, view: View, reasons: Sequence[str] = (), notes: Sequence[str] = ()) -> str:
        """Returns the text of a frame, without a newline at the end. A CSV table without rows and heading is "".

        `reasons` explain why there are no RTTs. `notes` are remarks about captures. CSV contains neither
        reasons nor notes.
        """
        shown = shown_lines(frame, view)
        is_first, self._is_first = self._is_first, False
        if self._format == "json":
            return json.dumps(_document(frame, view, shown, self._source, reasons, notes))
        if self._format == "csv":
            return _csv(frame, view, shown, has_heading=is_first)
        gap = "" if is_first else "\n"
        return gap + "\n".join(
            [*_heading(frame, view, self._source), "", *table(frame, view, shown), *reasons, *_paragraph(notes)]
        )


def _labels(line: Line, view: View) -> dict[str, Any]:
    """Returns the labels that identify a line."""
    shown = {
        "group": view.group(line),
        "subnet": view.show("subnet", line.subnet) if line.subnet else "",
        "name": view.show("network", line.name) if line.name else "",
        "as": None if view.is_redacted else line.as_number,
        "interface": view.interface(line),
        "organization": view.show("organization", line.as_organization) if line.as_organization else "",
    }
    tags = {} if view.is_redacted else dict(line.tags)
    return {each: getattr(line, each) if each not in shown else shown[each] for each in _LABELS} | {"tags": tags}


def _document(
    frame: Frame, view: View, shown: Indexes, source: str, reasons: Sequence[str], notes: Sequence[str]
) -> dict[str, Any]:
    total = frame.total
    rows = _all_numbers(frame, shown)
    return {
        "source": source,
        "begin_unix_nano": total.begin_ns,
        "end_unix_nano": total.end_ns,
        "seconds": total.seconds,
        "group_by": view.group_by,
        "filter": view.filter_text,
        "sort": view.sort,
        "summary": {key: _finite(value) for key, value in dataclasses.asdict(summary(frame)).items()},
        "reasons": list(reasons),
        "notes": list(notes),
        "networks": [
            _labels(frame.lines[line], view) | numbers for line, numbers in zip(shown.tolist(), rows, strict=True)
        ],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _all_numbers(frame: Frame, shown: Indexes) -> list[dict[str, float | None]]:
    """Returns the numbers of each shown line, in the units of the columns."""
    values = {column.key: (column.values(frame)[shown] * column.unit).tolist() for column in COLUMNS}
    return [
        {key: None if math.isnan(column[place]) else round(column[place], 6) for key, column in values.items()}
        for place in range(len(shown))
    ]


def _csv(frame: Frame, view: View, shown: Indexes, *, has_heading: bool) -> str:
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    if has_heading:
        writer.writerow(["end_unix_nano", "seconds", *_LABELS, *(column.key for column in COLUMNS)])
    for line, numbers in zip(shown.tolist(), _all_numbers(frame, shown), strict=True):
        labels = _labels(frame.lines[line], view)
        cells = [labels[each] for each in _LABELS]
        row = [frame.total.end_ns, f"{frame.total.seconds:.3f}", *cells, *numbers.values()]
        writer.writerow(["" if cell is None else cell for cell in row])
    return output.getvalue().rstrip("\n")


def _heading(frame: Frame, view: View, source: str) -> Iterator[str]:
    when = f"{text.date_and_clock(frame.end_ns)}, {frame.total.seconds:.1f} s" if frame.end_ns else "no time"
    yield f"{source}, {when}: {head.numbers(frame, view)}"


def _paragraph(lines: Sequence[str]) -> list[str]:
    return ["", *lines] if lines else []


def table(frame: Frame, view: View, shown: Indexes) -> list[str]:
    """Returns the lines of the table. Columns are as wide as their texts. Columns without values are left out."""
    lines = [frame.lines[line] for line in shown.tolist()]
    columns = [["network", *(view.label(line) for line in lines)]]
    for field in ("side", "interface", "system", "country"):
        cells = [view.cell(line, field) for line in lines]
        if any(cells):
            columns.append([{"system": "AS"}.get(field, field), *cells])
    left = len(columns)
    for column in COLUMNS:
        cells = [column.show(value) for value in column.values(frame)[shown].tolist()]
        if {*cells} - {text.UNKNOWN}:
            columns.append([column.heading, *cells])
    widths = [max(map(text.cells, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(_aligned(row, widths, left)).rstrip() for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int], left: int) -> Iterator[str]:
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        space = " " * (width - text.cells(cell))
        yield cell + space if place < left else space + cell
