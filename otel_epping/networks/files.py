# SPDX-License-Identifier: Apache-2.0
"""Reads a file of names: CSV, YAML, or ShapedDevices.csv and network.json of LibreQoS."""

import codecs
import stat
from pathlib import Path

from otel_epping.errors import EppingError
from otel_epping.networks import csv_file, libreqos
from otel_epping.networks.file_watch import FileWatch
from otel_epping.networks.network import Networks
from otel_epping.networks.network_json import Tree

# 100,000 lines of CSV need about 5 MB. With this limit, the agent does not read a capture or a disk into memory.
MAX_BYTES = 64 << 20
NETWORK_JSON = "network.json"
_YAML = {".yaml", ".yml"}

_SAVE_AS_CSV = "save the table as CSV in UTF-8"
# The first bytes of files that are often given by mistake -> what the file is, and the cure.
_FOREIGN = {
    b"\n\r\r\n": ("a capture", "use captures as arguments of replay"),
    b"\xd4\xc3\xb2\xa1": ("a capture", "use captures as arguments of replay"),
    b"\xa1\xb2\xc3\xd4": ("a capture", "use captures as arguments of replay"),
    b"\x4d\x3c\xb2\xa1": ("a capture", "use captures as arguments of replay"),
    b"\xa1\xb2\x3c\x4d": ("a capture", "use captures as arguments of replay"),
    b"\x1f\x8b": ("compressed by gzip", "decompress it"),
    b"\x28\xb5\x2f\xfd": ("compressed by zstd", "decompress it"),
    b"PK\3\4": ("a workbook of a spreadsheet program, or a zip archive", _SAVE_AS_CSV),
    b"\xd0\xcf\x11\xe0": ("a workbook of a spreadsheet program", _SAVE_AS_CSV),
    b"SQLite format 3\0": ("a database of SQLite", "export the table as CSV"),
}
_MAXMIND = b"\xab\xcd\xefMaxMind.com"  # In MaxMind format, before the metadata, which has at most 128 KiB.


def _content(path: str) -> bytes:
    """Returns the bytes of a file. Raises EppingError if the file cannot be read, or is empty or too large."""
    file = Path(path)
    try:
        mode = file.stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise EppingError(f"{path} is not a regular file: write the names of networks into a file")
        with file.open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise EppingError(f"{path} is a directory: use the path of the file in the directory") from None
    except PermissionError:
        raise EppingError(
            f"cannot read {path}: Permission denied: allow the user of the agent to read the file and to enter its "
            "directories. The agent drops the right of root to read all files"
        ) from None
    except FileNotFoundError:
        raise EppingError(f"{path} does not exist: create the file, or correct the path") from None
    except (OSError, ValueError) as error:
        raise EppingError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not content.strip():
        raise EppingError(f"{path} is empty: write the file again")
    if len(content) > MAX_BYTES:
        raise EppingError(f"{path} is larger than {MAX_BYTES >> 20} MiB: use a file of names")
    return content


def _check_format(path: str, content: bytes) -> None:
    """Raises EppingError if the file is of a known format that does not contain names."""
    for start, (what, cure) in _FOREIGN.items():
        if content.startswith(start):
            raise EppingError(f"{path} is {what}: {cure}")
    if content.find(_MAXMIND, max(0, len(content) - (128 << 10))) >= 0:
        raise EppingError(f"{path} is a database in MaxMind format: use --database for this file")


def _text(path: str, content: bytes) -> str:
    """Returns the text of a file in UTF-8, or in UTF-16 with a byte order mark.

    If a file of LibreQoS has another encoding, decodes the file as windows-1252, as in LibreQoS. If any other file has
    another encoding, raises EppingError.
    """
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = content.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        text = content.decode("cp1252", "replace")
        if not _is_libreqos(path, text):
            line = content.count(b"\n", 0, error.start) + 1
            raise EppingError(f"{path}:{line}: this line is not UTF-8: save the file as UTF-8") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise EppingError(f"{path}:{line}: this line contains NUL bytes: write the file again, as UTF-8 text")
    return text


def _is_libreqos(path: str, text: str) -> bool:
    """Returns true if a CSV file has the header of ShapedDevices.csv."""
    try:
        header = next(csv_file.rows(path, text, strict=False), None)
    except EppingError:
        return False
    return header is not None and libreqos.is_header(header.fields)


def _tree(path: str) -> Tree | None:
    """Returns the tree of network.json in the folder of a file, or None if network.json does not exist."""
    file = Path(path).parent / NETWORK_JSON
    return Tree(str(file), _text(str(file), _content(str(file)))) if file.exists() else None


def read(path: str) -> Networks:
    """Returns the networks of a file.

    The ending .yaml or .yml means YAML. Any other file is CSV. A CSV file with the header of ShapedDevices.csv is read
    as a file of LibreQoS, and network.json in the same folder is read, too, if it exists.

    If the file is invalid, raises EppingError. The message has one line for each invalid line of the file, up to
    MAX_LISTED lines: the file, the number of the line, the cause and the cure. One more line has the number of all
    other invalid lines.
    """
    content = _content(path)
    _check_format(path, content)
    text = _text(path, content)
    if Path(path).suffix.lower() in _YAML:
        from otel_epping.networks import yaml_file  # imports PyYAML, which takes 1 MB of memory

        return yaml_file.read(path, text)
    _check_is_csv(path, text)
    return libreqos.read(path, text, _tree(path)) if _is_libreqos(path, text) else csv_file.read(path, text)


def watch(path: str) -> FileWatch:
    """Returns a watch of the files that read() reads."""
    return FileWatch(path, str(Path(path).parent / NETWORK_JSON))


def _check_is_csv(path: str, text: str) -> None:
    start = text.lstrip()
    if start.startswith("{"):
        raise EppingError(f"{path} is JSON: use a CSV file. For network.json, use ShapedDevices.csv in its folder")
    if start.startswith(("[", "- ", "---")):
        raise EppingError(f"{path} looks like YAML: give the file a name that ends with .yaml")
