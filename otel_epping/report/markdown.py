# SPDX-License-Identifier: Apache-2.0
"""Writes a report as Markdown, without figures."""

import re
from collections.abc import Iterator

from otel_epping.report import text
from otel_epping.report.document import Report, ReportTable

# Longer tables are shortened to this number of rows, because Markdown cannot hide rows. JSON has all rows.
_MAX_ROWS = 50
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def markdown(report: Report) -> str:
    """Returns the report as Markdown."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# Network latency: {escaped(report.about[0][2])}"
    yield ""
    for _, heading, value in report.about:
        yield f"- {heading}: {escaped(value)}"
    for section in report.sections:
        yield f"\n## {section.title}\n"
        yield "\n\n".join(escaped(sentence) for sentence in section.sentences)
        for table in section.tables:
            yield ""
            yield from _table(table)
        if section.figures and not section.tables:
            yield "\nThis section has figures. The numbers of these figures are in the HTML page and in JSON:\n"
            yield from (f"- {escaped(figure.caption)}: n = {figure.samples}" for figure in section.figures)
    if report.notes:
        yield "\n## Notes of the source\n"
        yield from (f"- {escaped(note)}" for note in report.notes)


def _table(table: ReportTable) -> Iterator[str]:
    yield f"{escaped(table.caption)}\n"
    yield _row([escaped(text.heading(column.heading, column.kind)) for column in table.columns])
    yield _row(["---:" if text.KINDS[column.kind].is_right else "---" for column in table.columns])
    for row in table.rows[:_MAX_ROWS]:
        yield _row([escaped(text.cell(column.kind, value)) for column, value in zip(table.columns, row, strict=True)])
    if len(table.rows) > _MAX_ROWS:
        yield f"\n{text.count(len(table.rows) - _MAX_ROWS)} more rows were left out."


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escaped(content: str) -> str:
    """Returns the text with escapes, so that no character has a special meaning in Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", " ".join(content.split()))
