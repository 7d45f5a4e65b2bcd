# SPDX-License-Identifier: Apache-2.0
"""The output of a benchmark: tables to print, and named figures that goals.py compares with the goals."""

import sys
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

_WIDTH = 160

Cell = str | int | float | None


class Heading(NamedTuple):
    """The heading of a column, and the format() specification for its numbers."""

    name: str
    format: str = ""


@dataclass
class Table:
    """A table of results.

    A cell that is None is printed empty. If `printed` is false, only the JSON contains the table.
    """

    title: str
    columns: list[Heading]
    note: str = ""
    printed: bool = True
    rows: list[tuple[Cell, ...]] = field(default_factory=list)

    def add(self, *cells: Cell) -> None:
        """Adds a row."""
        assert len(cells) == len(self.columns), (cells, self.columns)
        self.rows.append(cells)

    def as_json(self) -> dict[str, Any]:
        """Returns the title, the note and the rows. A row is a dictionary from column headings to cells."""
        names = [column.name for column in self.columns]
        rows = [dict(zip(names, row, strict=True)) for row in self.rows]
        return {"title": self.title, "note": self.note, "rows": rows}

    def show(self) -> None:
        """Prints the table."""
        table = RichTable(
            title=self.title, caption=self.note or None, box=SIMPLE_HEAD, show_edge=False, pad_edge=False,
            padding=(0, 1, 0, 0), title_justify="left", caption_justify="left",
        )  # fmt: skip
        for index, column in enumerate(self.columns):
            table.add_column(column.name, justify="right" if index else "left", no_wrap=True)
        for row in self.rows:
            table.add_row(*map(_text, row, self.columns))
        console = Console(width=_WIDTH, highlight=False, markup=False)
        console.print(table)
        console.print()


def _text(cell: Cell, column: Heading) -> str:
    if cell is None:
        return ""
    return cell if isinstance(cell, str) else format(cell, column.format)


@dataclass
class Result:
    """The result of one benchmark. `figures` contains the named values that goals.py compares with the goals."""

    tables: list[Table]
    figures: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Returns all tables and figures."""
        return {"tables": [table.as_json() for table in self.tables], "figures": self.figures}


def progress(text: str) -> None:
    """Prints the name of the current step to standard error."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
