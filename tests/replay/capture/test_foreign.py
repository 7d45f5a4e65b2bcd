# SPDX-License-Identifier: Apache-2.0
"""Tests files that are not captures. Each file is rejected at once.

The error names the cure and the format of the file.
"""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.captures import packet, pcap, read, read_bytes

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


CONTENT = pcap([packet(1)])


def _zip() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.pcap", CONTENT)
    return archive.getvalue()


def _tar() -> bytes:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as file:
        info = tarfile.TarInfo("a.pcap")
        info.size = len(CONTENT)
        file.addfile(info, io.BytesIO(CONTENT))
    return archive.getvalue()


# Endace ERF: the time is in units of 2^-32 s, and the record is an Ethernet record of 80 bytes.
ERF = (1_700_000_000 << 32).to_bytes(8, "little") + bytes([2, 4, 0, 80, 0, 0, 0, 60, 0, 0]) + bytes(62)

EDITCAP = "convert it with editcap -F pcapng IN OUT"
FILES: dict[str, tuple[bytes, str]] = {
    "snoop": (b"snoop\0\0\0\0\0\0\x02\0\0\0\x04" + bytes(100), f"is a snoop capture (RFC 1761): {EDITCAP}"),
    "Network Monitor": (b"GMBU\0\x02" + bytes(300), f"is a Network Monitor 2 capture: {EDITCAP}"),
    "ERF": (ERF, f"is probably an Endace ERF capture: {EDITCAP}"),
    "event trace of Windows": (
        b"\0\0\1\0" + bytes(0x44) + b"\x02\0\x02\xc0" + bytes(200),
        "is a Windows event trace: convert it with etl2pcapng IN.etl OUT.pcapng",
    ),
    "iptrace": (b"iptrace 2.0\0" + bytes(100), f"is an AIX iptrace capture: {EDITCAP}"),
    "zip": (_zip(), "is a zip archive: unzip FILE"),
    "tar": (_tar(), "is a tar archive: tar -xf FILE"),
    "compress": (
        b"\x1f\x9d\x90" + bytes(50),
        "is compressed by the program compress: gzip -dc FILE | otel-epping replay -",
    ),
    "legacy lz4": (
        b"\x02\x21\x4c\x18" + bytes(50),
        "is compressed in the legacy format of lz4: lz4 -dc FILE | otel-epping replay -",
    ),
    "what tcpdump prints": (
        b"12:00:00.000000 IP 10.0.0.1.443 > 10.0.0.2.40000: Flags [.], ack 1, win 500, length 0\n" * 9,
        "is text: replay reads binary captures, like the output of tcpdump -w",
    ),
    "what tshark prints": (
        json.dumps([{"_index": "packets"}], indent=2).encode(),
        "is text: replay reads binary captures, like the output of tcpdump -w",
    ),
    "recording": (b'{"resourceMetrics":[]}\n', "is a file of OTLP JSON lines: otel-epping report FILE -o PAGE.html"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer: git lfs pull"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_known_format_is_named_in_the_error(tmp_path: Path, name: str) -> None:
    content, meaning = FILES[name]
    path = tmp_path / "capture.pcap"
    assert read_bytes(path, content) == ([], f"{path}: {meaning}")


def test_an_unknown_format(tmp_path: Path) -> None:
    path = tmp_path / "capture"
    expected = f"{path}: is neither pcap nor pcapng (it begins with 7f 45 4c 46), at byte 0"
    assert read_bytes(path, b"\x7fELF" + bytes(300)) == ([], expected)


@pytest.mark.parametrize("name", ["/dev/null", "/dev/zero", "/proc/self/mem"])
def test_devices(name: str) -> None:
    found, error = read(name)
    assert not found
    assert error.startswith(f"{name}: ")
