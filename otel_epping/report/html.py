# SPDX-License-Identifier: Apache-2.0
"""Writes a report as one HTML page. The page loads nothing from a network."""

import base64
import gzip
import json
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from otel_epping.report import text
from otel_epping.report.document import Figure, Report, ReportColumn, ReportTable, Section, Value

_PAGE = Path(__file__).parent / "page"
# The scripts of the page. In the page, these scripts are one script.
_SCRIPTS = ("axes.js", "figures.js", "report.js")
# A table shows this number of rows until the reader presses the button to show all rows.
_ROWS_SHOWN = 25
# With this policy, the browser loads nothing, whatever the page contains.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
# On a wide screen, two of these figures are next to each other.
_PAIRED = {"smoke", "spread", "bubbles", "periods"}
_LOSS = (
    ("blue", "loss below 0.5 %"),
    ("green", "0.5 to 2 %"),
    ("yellow", "2 to 5 %"),
    ("red", "5 % or more"),
    ("grey", "unknown"),
)
_SHORT_TITLES = {
    "verdict": "Verdict",
    "comparison": "A against B",
    "worst_networks": "Worst",
    "heat_map": "Over time",
    "smoke": "Smoke",
    "distributions": "Inside, outside",
    "spread": "Spread",
    "traffic": "Traffic",
    "load": "Under load",
    "features": "Features",
    "coverage": "Coverage",
}


def html(report: Report) -> str:
    """Returns the page."""
    title = f"Network latency: {report.about[0][2]}"
    figures = {
        f"{section.key}.{figure.key}": {"kind": figure.kind, "data": figure.data}
        for section in report.sections
        for figure in section.figures
    }
    links = "".join(f'<a href="#{section.key}">{_SHORT_TITLES[section.key]}</a>' for section in report.sections)
    about = "".join(
        f"<div><dt>{escape(heading)}</dt><dd>{escape(value)}</dd></div>" for _, heading, value in report.about
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en" data-theme="light">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>",
            f"<style>\n{_asset('report.css')}</style>",
            "</head>",
            "<body>",
            '<a class="skip" href="#verdict">Skip to the verdict</a>',
            f'<header><h1>{escape(title)}</h1><dl class="about">{about}</dl></header>',
            f'<nav aria-label="Sections"><div><div class="links">{links}</div>'
            '<button id="theme" title="Switch between light and dark">Dark</button></div></nav>',
            "<main>",
            '<p class="message" id="message" hidden>This browser is too old to show the figures, because '
            "DecompressionStream is missing. The tables are complete.</p>",
            '<noscript><p class="message">The figures need JavaScript. The tables are complete.</p></noscript>',
            *(_section(section, report) for section in report.sections),
            "</main>",
            f"<footer>{_notes(report)}</footer>",
            "<!-- plotly.js, MIT licence, https://github.com/plotly/plotly.js; compressed -->",
            _packed("plotly", get_plotlyjs()),
            _packed("data", json.dumps(figures, separators=(",", ":"), allow_nan=False)),
            f"<script>\n{''.join(map(_asset, _SCRIPTS))}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _asset(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


def _packed(name: str, content: str) -> str:
    """Returns an element with compressed content. report.js unpacks the content."""
    packed = base64.b64encode(gzip.compress(content.encode(), 6, mtime=0)).decode()
    return f'<script type="application/gzip" id="{name}">{packed}</script>'


def _section(section: Section, report: Report) -> str:
    parts = [f'<section id="{section.key}"><h2>{escape(section.title)}</h2>']
    parts.extend(f"<p>{escape(sentence)}</p>" for sentence in section.sentences)
    if section.figures:
        kinds = {figure.kind for figure in section.figures}
        if any(loss is not None for figure in section.figures for loss in figure.data.get("loss", ())):
            items = "".join(f'<li><i style="background:var(--{colour})"></i>{name}</li>' for colour, name in _LOSS)
            parts.append(f'<ul class="legend">{items}</ul>')
        pairs = " pairs" if kinds <= _PAIRED and len(section.figures) > 1 else ""
        parts.append(f'<div class="figures{pairs}">')
        parts.extend(_figure(section, figure) for figure in section.figures)
        parts.append("</div>")
    parts.extend(_table(table, report, section) for table in section.tables)
    parts.append("</section>")
    return "\n".join(parts)


def _figure(section: Section, figure: Figure) -> str:
    name = f"{section.key}.{figure.key}"
    caption, samples = escape(figure.caption), escape(figure.samples)
    return (
        f'<figure id="{name}" data-figure="{name}"><figcaption>{caption} <span class="samples">n = {samples}</span>'
        f'</figcaption><div class="plot" role="img" aria-label="{caption}, {samples}" style="height:190px"></div>'
        "</figure>"
    )


def _table(table: ReportTable, report: Report, section: Section) -> str:
    headings = "".join(_heading(column) for column in table.columns)
    smoke = _smoke_plots(report) if section.key != "coverage" else {}
    rows = "".join(_rows(table, report.options["thresholds"], smoke))
    more = len(table.rows) > _ROWS_SHOWN
    button = f'<button class="all">Show all {len(table.rows):,}</button>' if more else ""
    return (
        f'<div class="table"><div class="tools"><strong>{escape(table.caption)}</strong>'
        f'<button class="copy">Copy</button>{button}</div>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.caption)}">'
        f'<table id="{section.key}-{table.key}" data-shown="{_ROWS_SHOWN}"><thead><tr>{headings}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></div>"
    )


def _heading(column: ReportColumn) -> str:
    unit = text.KINDS[column.kind].unit
    shown = escape(column.heading) + (f" <small>{unit}</small>" if unit else "")
    hint = f' title="{escape(column.help)}"' if column.help else ""
    kind = ' class="n"' if text.KINDS[column.kind].is_right else ""
    return f'<th scope="col"{kind}><button{hint}>{shown}</button></th>'


def _smoke_plots(report: Report) -> dict[str, str]:
    """Maps the name of each network with a smoke plot to the id of the plot."""
    return {
        figure.data["network"]: f"{section.key}.{figure.key}"
        for section in report.sections
        for figure in section.figures
        if figure.kind == "smoke"
    }


def _rows(table: ReportTable, thresholds: dict[str, float], smoke: dict[str, str]) -> Iterator[str]:
    for place, row in enumerate(table.rows):
        marks = {} if place in table.uncertain else thresholds
        cells = [_cell(column, value, marks) for column, value in zip(table.columns, row, strict=True)]
        if table.columns[0].key == "network" and (target := smoke.get(str(row[0]))):
            cells[0] = f'<td><a href="#{target}">{escape(str(row[0]))}</a></td>'
        kind = ' class="uncertain" title="uncertain: too few RTTs"' if place in table.uncertain else ""
        yield f"<tr{kind}>{''.join(cells)}</tr>"


def _cell(column: ReportColumn, value: Value, thresholds: dict[str, float]) -> str:
    shown = escape(text.cell(column.kind, value))
    if not text.KINDS[column.kind].is_right:
        return f'<td class="wrap">{shown}</td>' if len(shown) > 40 else f"<td>{shown}</td>"
    raw = "" if value is None else f' data-v="{float(value):.7g}"'
    return f'<td class="n{_mark(column.key, value, thresholds)}"{raw}>{shown}</td>'


def _mark(key: str, value: Value, thresholds: dict[str, Any]) -> str:
    """Returns the CSS class of a value: a mark if the value is above a threshold, otherwise no class."""
    if not isinstance(value, float) or not thresholds:
        return ""
    if key == "excess":
        return " slow" if value >= thresholds["slow_s"] else " fair" if value >= thresholds["fair_s"] else ""
    return " slow" if key in ("loss", "loss_to", "loss_from") and value >= thresholds["loss"] else ""


def _notes(report: Report) -> str:
    if not report.notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return f'<h2>Notes of the source</h2><ul class="notes">{items}</ul>'
