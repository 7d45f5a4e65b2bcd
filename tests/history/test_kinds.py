# SPDX-License-Identifier: Apache-2.0
"""Tests how sources are recognised."""

import gzip
import sys
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.history.sources.kinds import Kind, kind_of, read_sources, source_size
from tests.history.otlp_lines import io, line, number, octets, write

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

A = "192.0.2.0/24"
OTLP = line(io(number(A, 0, 60, 1)))
PPING = '[{"timestamp":1700000000000000000,"ip_prefix":"192.0.2.0/24","rx_stats":{"TCP_TS":{"packets":1}}}'
PCAP = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (OTLP.encode(), Kind.OTLP),
        (f'\n\n{{"resourceSpans":[]}}\n{OTLP}'.encode(), Kind.OTLP),
        (PPING.encode(), Kind.PPING),
        (b'{"timestamp":1,"src_ip":"192.0.2.1"}', Kind.PPING),
        (b"garbage\n" + OTLP.encode(), Kind.OTLP),
        (OTLP.encode()[OTLP.index("startTimeUnixNano") - 1 :], Kind.OTLP),
        (b"garbage\n" + PPING.encode(), Kind.PPING),
        (PPING.encode()[PPING.index("rx_stats") - 1 :], Kind.PPING),
        (PCAP, Kind.CAPTURE),
        (bytes.fromhex("0a0d0d0a1c0000004d3c2b1a01000000ffffffffffffffff1c000000"), Kind.CAPTURE),
    ],
)
@pytest.mark.parametrize("name", ["file", "x.pcap", "x.json"])
def test_the_content_of_a_file_shows_what_it_is(tmp_path: Path, content: bytes, kind: Kind, name: str) -> None:
    path = tmp_path / name
    for each in (content, gzip.compress(content)):
        path.write_bytes(each)
        assert kind_of(str(path)) is kind
        assert source_size([str(path), str(path), str(tmp_path / "none")]) == 2 * len(each)


@pytest.mark.parametrize("url", ["http://h:9090", "https://h/prometheus?start=1h", "prometheus+http://h"])
def test_a_url_is_prometheus(url: str) -> None:
    assert kind_of(url) is Kind.PROMETHEUS


@pytest.mark.parametrize(
    "content", [b"hello", b"{}", b"\x7fELF", b"PAR1", gzip.compress(b"hello", mtime=0), b"\x1f\x8b\x08"]
)
def test_other_files_are_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(EppingError, match=f"{path}: (is neither a capture, nor lines of OTLP|the gzip file is trunc)"):
        kind_of(str(path))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", gzip.compress(b"", mtime=0)])
def test_empty_files_are_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(EppingError, match=f"{path}: is empty"):
        kind_of(str(path))


def test_a_damaged_first_line_is_skipped(tmp_path: Path) -> None:
    long = line(*(io(number(A, 0, 60, 2)) for _ in range(100)))[500:]
    for number_of_file, damaged in enumerate(("garbage", OTLP[200:], long)):
        path = write(tmp_path, damaged, OTLP, name=str(number_of_file))
        history = read_sources([str(path)])
        assert octets(history) == {A: 1}
        assert "1 line is not used, of 2; line 1: " in history.notes[0]


def test_sources_of_one_kind_are_added_up(tmp_path: Path) -> None:
    first = write(tmp_path, OTLP, name="1")
    second = write(tmp_path, line(io(number(A, 60, 120, 4))), name="2")
    sizes: list[int] = []
    assert octets(read_sources([str(first), str(second)], progress=sizes.append)) == {A: 5}
    assert sum(sizes) == first.stat().st_size + second.stat().st_size
    other = write(tmp_path, PPING, name="3")
    assert read_sources([str(other)]).total().seconds == 10
    with pytest.raises(EppingError, match=r"different kinds cannot be added up: .*1 is an OTLP file, .*3 is output"):
        read_sources([str(first), str(other)])


@pytest.mark.parametrize("content", [PPING.replace('"packets":1', '"packets":1,"bytes":2'), OTLP])
def test_a_file_with_several_names_is_read_once(tmp_path: Path, content: str) -> None:
    path = write(tmp_path, content, name="1")
    (tmp_path / "symbolic").symlink_to(path)
    (tmp_path / "hard").hardlink_to(path)
    once = read_sources([str(path)])
    for other in (str(path), f"{tmp_path}/./1", f"{tmp_path}/symbolic", f"{tmp_path}/hard"):
        history = read_sources([str(path), other])
        assert octets(history) == octets(once)
        assert history.notes == [*once.notes, f"{path} is named several times, and was read once"]


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, OTLP)
    for name in [name for name in sys.modules if name.startswith(("msgspec", "otel_epping.history.sources.otlp"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(EppingError, match=r"need the package msgspec: pip install 'otel-epping\[report\]'"):
        read_sources([str(path)])
