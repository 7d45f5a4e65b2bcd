# SPDX-License-Identifier: Apache-2.0
"""The parts of a report. All formats contain the same parts, and so the same numbers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

# A value of a table: a text, a number, or None if the value is unknown. Times are in seconds, shares are from 0 to 1,
# rates are in bit/s.
Value = str | float | int | None

# Number of significant digits of the numbers in figures. The width of a bucket is larger than the rounding error.
_DIGITS = 4


@dataclass(frozen=True)
class ReportColumn:
    """A column of a table.

    key      the name of the column in JSON
    heading  the heading, without the unit
    kind     the kind of the values: a key of text.KINDS
    help     the meaning of the values
    """

    key: str
    heading: str
    kind: str
    help: str = ""


@dataclass(frozen=True)
class ReportTable:
    """A table. `uncertain` has the numbers of the rows that have too few samples."""

    key: str
    caption: str
    columns: Sequence[ReportColumn]
    rows: Sequence[Sequence[Value]]
    uncertain: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A figure.

    key      the name of the figure in JSON
    kind     the function in page/figures.js that draws the figure
    caption  describes the figure
    samples  the number and the kind of the values in the figure, for example `1,234 RTTs`
    data     the numbers in the figure, for figures.js and for JSON
    """

    key: str
    kind: str
    caption: str
    samples: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Section:
    """A section: sentences, figures and tables."""

    key: str
    title: str
    sentences: Sequence[str]
    figures: Sequence[Figure] = ()
    tables: Sequence[ReportTable] = ()


@dataclass(frozen=True)
class Report:
    """A report.

    about     facts about the measurement: (key, heading, value)
    options   settings of the report that the formats need, such as thresholds
    sections  the sections, in the order of the page
    """

    about: Sequence[tuple[str, str, str]]
    options: dict[str, Any]
    sections: Sequence[Section]
    notes: Sequence[str] = field(default_factory=list)


def shown_columns(
    columns: Sequence[ReportColumn], rows: Sequence[Sequence[Value]]
) -> tuple[list[ReportColumn], list[list[Value]]]:
    """Returns the columns and the rows. Columns without any value are left out."""
    kept = [place for place in range(len(columns)) if any(row[place] not in (None, "") for row in rows) or not rows]
    return [columns[place] for place in kept], [[row[place] for place in kept] for row in rows]


def value(number: float | int | np.generic) -> float | int | None:
    """Returns a number for a table. NaN becomes None."""
    plain: float | int = number.item() if isinstance(number, np.generic) else number
    return None if plain != plain else plain


def listed(numbers: npt.NDArray[Any] | Iterable[float], digits: int = _DIGITS) -> list[Any]:
    """Returns numbers for a figure: a list, or a list of lists. NaN becomes None. Floats are rounded."""
    array = np.asarray(numbers if isinstance(numbers, np.ndarray) else list(numbers))
    if array.dtype.kind != "f":
        return list(array.tolist())
    with np.errstate(all="ignore"):
        power = digits - 1 - np.floor(np.log10(np.abs(array)))
    power = np.where(np.isfinite(power), np.clip(power, -300, 300), 0).astype(int)
    scale = 10.0 ** np.abs(power)
    rounded = np.where(power >= 0, np.round(array * scale) / scale, np.round(array / scale) * scale)
    return list(_without_nan(rounded).tolist())


def _without_nan(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    found = array.astype(object)
    found[np.isnan(array)] = None
    return found
