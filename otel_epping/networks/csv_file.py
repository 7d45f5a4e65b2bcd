# SPDX-License-Identifier: Apache-2.0
"""Reads names of networks from a CSV file (RFC 4180) with a header: `cidr,name`, and further columns as tags."""

import csv
import io
from collections.abc import Iterator
from operator import itemgetter
from typing import NamedTuple

from otel_epping.errors import EppingError
from otel_epping.networks.builder import NetworksBuilder, tag_name
from otel_epping.networks.line_errors import LineError, quoted
from otel_epping.networks.network import Networks
from otel_epping.networks.prefix_text import packed

_EXAMPLE = "start the file with a header, such as cidr,name,site"

_OPEN_QUOTE = "the quoted text does not end in this line: add the closing quote"

# The messages of csv.Error -> cause and cure.
_CAUSES = {
    "unexpected end of data": "the file ends inside a quoted text: add the closing quote, or the missing lines",
    "',' expected after '\"'": "text follows a closing quote: write a quote inside a quoted text twice",
    "field larger than field limit": "a text has more than 131,072 characters: add the closing quote, or shorten it",
}


class Row(NamedTuple):
    """The fields of a row, the first line of the row in the file, and the last line."""

    fields: list[str]
    first_line: int
    last_line: int


def rows(path: str, text: str, strict: bool = True) -> Iterator[Row]:
    """Yields the rows of a CSV file, without empty rows and without lines that start with #.

    If quotes are misplaced and `strict` is false, yields the fields that a lenient program would read. If `strict` is
    true, raises EppingError with the file and the line.
    """
    # With newline="", a line ends with LF, CR LF or CR.
    lines = ("\n" if line.lstrip().startswith("#") else line for line in io.StringIO(text, newline=""))
    reader = csv.reader(lines, strict=strict, skipinitialspace=True)
    first_line = 1
    try:
        for fields in reader:
            if any(fields):
                yield Row(fields, first_line, reader.line_num)
            first_line = reader.line_num + 1
    except csv.Error as error:
        cause = next((cause for start, cause in _CAUSES.items() if str(error).startswith(start)), f"{error}")
        if reader.line_num > first_line:
            cause = _OPEN_QUOTE
        raise EppingError(f"{path}:{first_line}: {cause}") from None


def _columns(header: list[str]) -> list[str]:
    """Returns the names of the columns. If the header is invalid, raises LineError."""
    while header and not header[-1].strip():
        header = header[:-1]
    names = [text.strip().lower() for text in header]
    if "cidr" not in names:
        for delimiter, what in (";", "semicolons"), ("\t", "tabs"):
            if len(header) == 1 and delimiter in header[0]:
                raise LineError(f"{what} separate the columns: save the file with commas")
        try:
            packed(names[0] if names else "")
        except LineError:
            raise LineError(f"the header {quoted(','.join(header))} has no column cidr: {_EXAMPLE}") from None
        raise LineError(f"the file has no header: {_EXAMPLE}")
    if "name" not in names:
        raise LineError(f"the header has no column name: {_EXAMPLE}")
    columns = [name if name in ("cidr", "name") else tag_name(name) for name in names]
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated:
        raise LineError(f"the column {repeated} occurs twice: remove or rename one of the two columns")
    return columns


def read(path: str, text: str) -> Networks:
    """Returns the networks in a CSV text.

    Raises EppingError with the file, the line, the cause and the cure for each line that is invalid.
    """
    lines = rows(path, text)
    header = next(lines, None)
    if not header:
        raise EppingError(f"{path} contains only comments: {_EXAMPLE}")
    try:
        columns = _columns(header.fields)
    except LineError as error:
        raise EppingError(f"{path}:{header.first_line}: {error}") from None
    tags = [name for name in columns if name not in ("cidr", "name")]
    builder = NetworksBuilder(path, tags)
    cidr, name = columns.index("cidr"), columns.index("name")
    # itemgetter() returns a tuple only for two or more indexes.
    fields_of = itemgetter(name, *(columns.index(tag) for tag in tags), name)
    width = len(columns)
    is_complete = text.endswith(("\n", "\r"))
    unfinished_line = None if is_complete else sum(1 for _ in io.StringIO(text, newline=""))
    for fields, line, last_line in lines:
        if last_line > line:
            builder.errors.add(line, _OPEN_QUOTE)
            break
        if len(fields) != width:
            if len(fields) < width and line == unfinished_line:
                builder.errors.add(line, "the file ends in the middle of this line: write the file completely")
                continue
            if any(fields[width:]):
                cause = f"the line has {len(fields)} columns, and the header has {width}"
                builder.errors.add(line, f"{cause}: put quotes around a text that contains a comma")
                continue
            fields = (fields + [""] * width)[:width]
        try:
            builder.add(line, packed(fields[cidr]), fields_of(fields)[:-1])
        except LineError as error:
            builder.errors.add(line, error)
    return builder.build()
