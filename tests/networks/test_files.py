# SPDX-License-Identifier: Apache-2.0
"""Tests that read() rejects files of other formats with one clear line, and that no content causes a traceback."""

import csv
import gzip
import ipaddress
import os
import socket
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from otel_epping.errors import EppingError
from otel_epping.networks import files
from tests.networks.support import error_of, names_by_prefix, tags_by_name

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "settings" / "networks.csv"
CAPTURE = "a capture: use captures as arguments of replay"
WORKBOOK = "a workbook of a spreadsheet program"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty: write the file again"),
        (b" \r\n\n", " is empty: write the file again"),
        (b"\xd4\xc3\xb2\xa1\x02\0\x04\0", f" is {CAPTURE}"),
        (b"\x4d\x3c\xb2\xa1\x02\0\x04\0", f" is {CAPTURE}"),
        (b"\n\r\r\n\x1c\0\0\0", f" is {CAPTURE}"),
        (gzip.compress(b"cidr,name\n", mtime=0), " is compressed by gzip: decompress it"),
        (b"PK\3\4\x14\0", f" is {WORKBOOK}, or a zip archive: save the table as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", f" is {WORKBOOK}: save the table as CSV in UTF-8"),
        (b"SQLite format 3\0\x10\0", " is a database of SQLite: export the table as CSV"),
        (
            bytes(200_000) + b"\xab\xcd\xefMaxMind.com\xe9" + bytes(500),
            " is a database in MaxMind format: use --database for this file",
        ),
        (b'{"a": 1}', " is JSON: use a CSV file. For network.json, use ShapedDevices.csv in its folder"),
        (b'\n[{"cidr": "10.0.0.0/8"}]', " looks like YAML: give the file a name that ends with .yaml"),
        (b"- cidr: 10.0.0.0/8", " looks like YAML: give the file a name that ends with .yaml"),
        (b"cidr,name\n10.0.0.0/8,M\xfcller\n", ":2: this line is not UTF-8: save the file as UTF-8"),
        (b"cidr,name\n10.0.0.0/8,M\0ller\n", ":2: this line contains NUL bytes: write the file again, as UTF-8 text"),
        ("cidr,name\n".encode("utf-16-le"), ":1: this line contains NUL bytes: write the file again, as UTF-8 text"),
        (b"\xff\xfec\0i\0d", ":1: this line is not UTF-8: save the file as UTF-8"),
        (
            b"<!DOCTYPE html>\n",
            ":1: the header '<!DOCTYPE html>' has no column cidr: start the file with a header, such as ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_error_of_a_file_of_another_format_has_the_cure(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "names"
    path.write_bytes(content)
    assert error_of(path).startswith(f"names{message}")


def test_a_workbook_is_recognized(tmp_path: Path) -> None:
    path = tmp_path / "names.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", "")
    assert error_of(path) == f"names.xlsx is {WORKBOOK}, or a zip archive: save the table as CSV in UTF-8"


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    with path.open("wb") as file:
        file.write(b"cidr,name\n")
        file.truncate(files.MAX_BYTES + 1)
    assert error_of(path) == "names.csv is larger than 64 MiB: use a file of names"


def test_files_that_cannot_be_read_have_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    assert error_of(path) == "names.csv does not exist: create the file, or correct the path"
    path.touch()
    assert error_of(path / "b") == "cannot read b: Not a directory"
    path.unlink()
    path.mkdir()
    assert error_of(path) == "names.csv is a directory: use the path of the file in the directory"
    os.mkfifo(tmp_path / "fifo")
    assert error_of(tmp_path / "fifo") == "fifo is not a regular file: write the names of networks into a file"
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        assert error_of(tmp_path / "socket").startswith("socket is not a regular file")
    (tmp_path / "loop").symlink_to("loop")
    assert error_of(tmp_path / "loop") == "cannot read loop: Too many levels of symbolic links"
    for name in ("a\0b", "", "/"):
        with pytest.raises(EppingError):
            files.read(name)


@contextmanager
def without_capabilities() -> Iterator[None]:
    """Run without the capability to read all files: as another user, if the tests run as root.

    tests/pythons.sh runs the tests as root without capabilities. Then the user cannot be changed, and need not be.
    """
    user = os.geteuid()
    if user == 0:
        with suppress(PermissionError):
            os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_only_root_may_read_has_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("cidr,name\n10.0.0.0/8,A\n")
    path.chmod(0)
    with without_capabilities():
        assert error_of(path) == (
            "cannot read names.csv: Permission denied: allow the user of the agent to read the file and to enter its "
            "directories. The agent drops the right of root to read all files"
        )


def test_the_example_is_valid() -> None:
    networks = files.read(str(EXAMPLE))
    assert len(networks.networks) >= 3
    assert "site" in networks.tags


HEADERS = [
    b"cidr,name,site\n",
    b"Circuit ID,Circuit Name,Parent Node,IPv4,IPv6,Download Max Mbps,Upload Max Mbps\n",
    b"- cidr: 10.0.0.0/8\n  name: A\n",
    b"",
]
TOKENS = (
    b'10.0.0.0/8|2001:db8::/32|10.0.0.1/8|,|"|\n|\r|\0|A|- |  |cidr: |name: |#|[|]|{|}|&a |*a|!!x |\xff|\xef\xbb\xbf'
    b'|\xff\xfe|? |\\|"\\ud800"|\xe2\x80\xae|\xe2\x80\xa8|\xc2\x85|\x1c|%YAML 3.0\n|<<: |---\n|...\n'
)
PIECES = st.one_of(st.sampled_from(TOKENS.split(b"|")), st.just(b"|"), st.binary(max_size=8))


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=settings().max_examples * 4
)
@given(
    st.sampled_from(["names.csv", "names.yaml"]),
    st.sampled_from(HEADERS),
    st.lists(PIECES, max_size=20).map(b"".join),
    st.one_of(st.none(), st.lists(PIECES, max_size=5).map(b"".join)),
)
@example("names.yaml", b"", b'- {cidr: 10.0.0.0/8, name: "\\ud800"}', None)
@example("names.yaml", b"", b'- {cidr: "\\ud800", name: A}', None)
def test_no_content_causes_a_traceback(
    tmp_path: Path, name: str, header: bytes, content: bytes, tree: bytes | None
) -> None:
    path = tmp_path / name
    path.write_bytes(header + content)
    (tmp_path / "network.json").unlink(missing_ok=True)
    if tree is not None:
        (tmp_path / "network.json").write_bytes(b'{"A": {"children": ' + tree)
    try:
        networks = files.read(str(path))
    except EppingError as error:
        lines = str(error).splitlines()
        assert 1 <= len(lines) <= 6
        assert all(line.isprintable() for line in lines)
    else:
        assert len(networks.prefixes)
        assert all(each.name.isprintable() for each in networks.networks)


WORDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)
NAMES = st.lists(WORDS, min_size=1, max_size=3).map(" ".join)
CIDRS = st.one_of(
    st.tuples(st.ip_addresses(v=4), st.integers(0, 32)),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 95)),
    st.tuples(st.ip_addresses(network="2000::/3"), st.integers(3, 128)),
).map(lambda parts: str(ipaddress.ip_network(parts, strict=False)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(CIDRS, NAMES, min_size=1, max_size=30))
def test_all_names_and_prefixes_are_read_as_written(tmp_path: Path, written: dict[str, str]) -> None:
    rows = [{"cidr": cidr, "name": name, "site": name[::-1]} for cidr, name in written.items()]
    with (tmp_path / "names.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["cidr", "name", "site"])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(rows, allow_unicode=True), encoding="utf-8")
    for name in ("names.csv", "names.yaml"):
        networks = files.read(str(tmp_path / name))
        assert names_by_prefix(networks) == written
        assert tags_by_name(networks) == {name: {"site": name[::-1].strip()} for name in written.values()}
