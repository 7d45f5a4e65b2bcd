# SPDX-License-Identifier: Apache-2.0
"""Tests compressed captures of every format: complete, truncated, damaged, and in several members.

Also tests a capture whose format needs a package that is not installed.
"""

import bz2
import gzip
import lzma
import random
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.support.captures import in_microseconds, packet, pcap, pcapng, read, read_bytes
from tests.support.split_reads import delivered

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from otel_epping.replay.capture.stream import WINDOW

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


LZ4: Any = import_module("lz4.frame")
Compress = Callable[[bytes], bytes]
COMPRESS: dict[str, Compress] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE, preset=0),
    "zstd": zstd.compress,
    "lz4": lambda content: LZ4.compress(content, content_checksum=True),
}
# The reader cannot return the last bytes before a damaged place. The maximum number of these bytes is the size of a
# block of the format, plus the number of bytes that are decompressed at a time.
BLOCK = {"gzip": 1 << 16, "bzip2": 900_000 + 4096, "xz": 8192, "lzma": 8192, "zstd": (128 << 10) + 4096, "lz4": 70_000}
EACH = pytest.mark.parametrize("name", COMPRESS)
PACKETS = [packet(number) for number in range(40)]
CONTENT = pcap(PACKETS, nanoseconds=True)


def _incompressible(count: int, size: int) -> list[Any]:
    chance = random.Random(7)
    return [one._replace(data=chance.randbytes(size), original=size) for one in map(packet, range(count))]


@EACH
def test_the_format_is_detected_by_content_and_not_by_name(tmp_path: Path, name: str) -> None:
    for content in (CONTENT, pcapng(PACKETS)):
        found, error = read_bytes(tmp_path / "capture.pcap", COMPRESS[name](content))
        assert ([one.data for one in found], error) == ([one.data for one in PACKETS], "")


@EACH
def test_captures_larger_than_a_window(tmp_path: Path, name: str) -> None:
    packets = _incompressible(220, 10_000)
    content = pcap(packets, nanoseconds=True)
    assert len(content) > 2 * WINDOW
    assert read_bytes(tmp_path / "capture", COMPRESS[name](content)) == (packets, "")


@EACH
def test_byte_by_byte(name: str) -> None:
    with delivered(COMPRESS[name](CONTENT), 1) as pipe:
        assert read(pipe) == (PACKETS, "")


@pytest.mark.parametrize("name", [name for name in COMPRESS if name != "lzma"])
def test_members_one_after_the_other(tmp_path: Path, name: str) -> None:
    """`cat`, pbzip2 and pzstd create files with several members.

    In xz and gzip, zeros may follow a member as padding.
    """
    compress = COMPRESS[name]
    padding = bytes(8) if name in ("gzip", "xz") else b""
    parts = compress(CONTENT[:100]) + padding + compress(CONTENT[100:]) + padding
    assert read_bytes(tmp_path / "capture", parts) == (PACKETS, "")


@pytest.mark.parametrize("magic", [0x50, 0x5F])
def test_skippable_frames_of_zstd(tmp_path: Path, magic: int) -> None:
    """RFC 8878 section 3.1.2 defines skippable frames. pzstd writes a skippable frame first."""
    skipped = bytes([magic, 0x2A, 0x4D, 0x18, 4, 0, 0, 0]) + b"abcd"
    content = skipped + zstd.compress(CONTENT) + skipped
    assert read_bytes(tmp_path / "capture", content) == (PACKETS, "")


def test_the_largest_window_of_zstd(tmp_path: Path) -> None:
    """`zstd --long=31` compresses with a window of 2^31 bytes, which is the largest window."""
    parameter = zstd.CompressionParameter
    compressor = zstd.ZstdCompressor(options={int(parameter.window_log): 31, int(parameter.content_size_flag): 0})
    content = compressor.compress(CONTENT) + compressor.flush()
    assert zstd.get_frame_info(content).decompressed_size is None
    assert read_bytes(tmp_path / "capture", content) == (PACKETS, "")


@pytest.mark.parametrize("nanoseconds", [True, False])
@EACH
def test_truncated(tmp_path: Path, name: str, nanoseconds: bool) -> None:
    """The reader returns all data that can be decompressed."""
    packets = in_microseconds(_incompressible(600, 1000))
    content = COMPRESS[name](pcap(packets, nanoseconds=nanoseconds))
    counts = []
    for place in range(1, 20):
        found, error = read_bytes(tmp_path / "capture", content[: len(content) * place // 20])
        assert found == packets[: len(found)]
        assert error.startswith(f"{tmp_path}/capture: the {name} file is truncated, at byte ")
        assert error.endswith(" of the decompressed data")
        counts.append(len(found))
    assert counts == sorted(counts)
    # bzip2 compresses blocks of 900 kB. If only a part of a block is present, this part cannot be decompressed.
    assert counts[-1] > 500 or name == "bzip2"


@EACH
def test_damaged(tmp_path: Path, name: str) -> None:
    """The reader returns all data before the damaged block."""
    packets = _incompressible(2000, 1000)
    content = bytearray(COMPRESS[name](pcap(packets, nanoseconds=True)))
    place = len(content) * 3 // 4
    content[place : place + 64] = bytes(byte ^ 0x55 for byte in content[place : place + 64])
    found, error = read_bytes(tmp_path / "capture", bytes(content))
    assert "is damaged" in error or "is truncated" in error
    whole = sum(one == other for one, other in zip(found, packets, strict=False))
    assert whole > (1500_000 - BLOCK[name]) / 1016 - 2


@EACH
def test_bytes_after_the_end(tmp_path: Path, name: str) -> None:
    found, error = read_bytes(tmp_path / "capture", COMPRESS[name](CONTENT) + b"no member")
    assert found == PACKETS
    assert f"the {name} file is damaged" in error or "is truncated" in error


@EACH
def test_compressed_twice(tmp_path: Path, name: str) -> None:
    twice = COMPRESS[name](gzip.compress(CONTENT))
    assert read_bytes(tmp_path / "capture", twice) == (
        [],
        f"{tmp_path}/capture: is compressed twice: decompress it once",
    )


@EACH
def test_a_compressed_empty_file(tmp_path: Path, name: str) -> None:
    assert read_bytes(tmp_path / "capture", COMPRESS[name](b"")) == ([], f"{tmp_path}/capture: is empty")


WITHOUT_PACKAGES = """
import sys
for name in ("backports.zstd", "compression.zstd", "lz4", "lz4.frame"):
    sys.modules[name] = None
from otel_epping.replay.capture import Capture, CaptureError
try:
    Capture(sys.argv[1])
except CaptureError as error:
    print(error)
"""


@pytest.mark.parametrize("name", ["zstd", "lz4"])
def test_a_package_that_is_not_installed(tmp_path: Path, name: str) -> None:
    (tmp_path / "capture").write_bytes(COMPRESS[name](CONTENT))
    command = [sys.executable, "-c", WITHOUT_PACKAGES, str(tmp_path / "capture")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{tmp_path}/capture: is compressed by {name}: pip install 'otel-epping[compression]', or "
        f"{name} -dc FILE | otel-epping replay -\n"
    )
