# SPDX-License-Identifier: Apache-2.0
"""Tests the sources of captures: plain files, compressed files and pipes. Also tests files that are not captures."""

import os
import random
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.captures import compressed, packet, pcap, pcapng, read, read_bytes
from tests.support.split_reads import delivered

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


PACKETS = [packet(number) for number in range(40)]
CONTENT = pcap(PACKETS, nanoseconds=True)


def test_gzip_is_detected_by_content_and_not_by_name(tmp_path: Path) -> None:
    assert read_bytes(tmp_path / "capture.pcap", compressed(CONTENT)) == (PACKETS, "")
    assert read_bytes(tmp_path / "capture.gz", CONTENT) == (PACKETS, "")


def test_gzip_files_one_after_the_other(tmp_path: Path) -> None:
    """`cat` and bgzip create files that consist of several gzip files."""
    parts = compressed(CONTENT[:100]) + compressed(CONTENT[100:]) + bytes(8)
    assert read_bytes(tmp_path / "capture", parts) == (PACKETS, "")


@pytest.mark.parametrize("nanoseconds", [True, False])
def test_gzip_truncated_at_every_byte(tmp_path: Path, nanoseconds: bool) -> None:
    """The reader returns all data that can be decompressed."""
    chance = random.Random(2)
    packets = [one._replace(data=chance.randbytes(60)) for one in PACKETS]
    content = compressed(pcap(packets, nanoseconds=nanoseconds))
    counts = []
    for size in range(1, len(content)):
        found, error = read_bytes(tmp_path / "capture", content[:size])
        assert found == packets[: len(found)]
        assert "the gzip file is truncated, at byte" in error or size == 1
        counts.append(len(found))
    assert counts == sorted(counts)
    assert counts[-9] == len(packets)  # 9 bytes are missing, and the trailer has 8 bytes
    assert counts[len(counts) // 2] > len(packets) // 3


def test_damaged_gzip(tmp_path: Path) -> None:
    """The reader returns the packets before the damage, even if the file is longer than a window.

    If only the trailer is damaged, the reader returns all packets.
    """
    chance = random.Random(3)
    packets = [one._replace(data=bytes(chance.choices(b"letters", k=30_000)), original=30_000) for one in PACKETS * 2]
    content = compressed(pcap(packets, nanoseconds=True))
    damaged = bytearray(content)
    middle = len(content) // 2
    damaged[middle : middle + 64] = b"\xff" * 64
    found, error = read_bytes(tmp_path / "capture", bytes(damaged))
    assert len(packets) // 3 < len(found) < len(packets)
    assert found[:-2] == packets[: len(found) - 2]
    assert "is damaged" in error
    assert error.endswith(" of the decompressed data")
    found, error = read_bytes(tmp_path / "capture", content[:-6] + bytes([content[-6] ^ 1]) + content[-5:])
    assert found == packets
    assert "the gzip file is damaged" in error


def _damaged(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 0x55] * 3) + content[place + 3 :]


def test_packets_and_errors_do_not_depend_on_the_size_of_reads(tmp_path: Path) -> None:
    """Reads of any size give the same packets and errors.

    The captures are complete, truncated or damaged, and plain or compressed. The test reads each capture from a file
    and from a pipe.
    """
    chance = random.Random(4)
    packets = [one._replace(data=bytes(chance.choices(b"letters", k=100)), original=100) for one in PACKETS[:10]]
    for plain in (pcap(packets, nanoseconds=True), pcapng(packets)):
        for content in (plain, compressed(plain), compressed(plain[:500]) + compressed(plain[500:]) + bytes(40)):
            damaged = [_damaged(content, chance.randrange(24, len(content) - 3)) for _ in range(6)]
            truncated = [content[: chance.randrange(len(content))] for _ in range(3)]
            for each in (content, *damaged, *truncated):
                found, error = read_bytes(tmp_path / "capture", each)
                assert (found == packets and not error) or each != content
                for size in (1, 7, 100, 401):
                    with delivered(each, size) as pipe:
                        assert read(pipe) == (found, error.replace(f"{tmp_path}/capture", pipe))


def test_damaged_gzip_gives_the_packets_before_the_damage(tmp_path: Path) -> None:
    """zlib decompresses some data from the bytes before the damage. The reader returns all packets in the data that
    zlib has decompressed.

    The rest of the damaged block is lost.
    """
    chance = random.Random(5)
    packets = [one._replace(data=bytes(chance.choices(b"letters", k=3000)), original=3000) for one in PACKETS]
    content = compressed(pcap(packets, nanoseconds=True))
    for _ in range(20):
        place = chance.randrange(100, len(content) - 8)
        whole = zlib.decompressobj(31).decompress(content[:place])
        found, error = read_bytes(tmp_path / "capture", _damaged(content, place))
        assert error
        assert len(found) >= (len(whole) - 24) // 3016


def test_a_file_of_another_format(tmp_path: Path) -> None:
    found, error = read_bytes(tmp_path / "capture", b"\x01\x02\x03\x04 is no magic number")
    assert not found
    assert error.endswith("capture: is neither pcap nor pcapng (it begins with 01 02 03 04), at byte 0")
    assert "the gzip file is damaged" in read_bytes(tmp_path / "capture", b"\x1f\x8b no gzip after all")[1]


def test_an_empty_file(tmp_path: Path) -> None:
    assert read_bytes(tmp_path / "capture", b"") == ([], f"{tmp_path}/capture: is empty")
    assert read_bytes(tmp_path / "capture", compressed(b"")) == ([], f"{tmp_path}/capture: is empty")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], f"{tmp_path}: is a directory; name the files in it: {tmp_path}/*")
    assert read(tmp_path / "nothing") == ([], f"{tmp_path}/nothing: No such file or directory")
    (tmp_path / "secret").touch(mode=0)
    with without_access(tmp_path / "secret"):
        assert read(tmp_path / "secret") == ([], f"{tmp_path}/secret: Permission denied")


@contextmanager
def without_access(path: Path) -> Iterator[None]:
    """Run the body of the `with` statement as the user nobody, because root could read every file."""
    if not os.access(path, os.R_OK):
        yield
        return
    path.parent.chmod(0o755)
    for parent in path.parents[1:3]:
        parent.chmod(parent.stat().st_mode | 0o111)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def _flushed(content: bytes) -> bytes:
    """Return the flushed first part of a gzip file.

    The program that writes the gzip file flushes the first part, and continues to write.
    """
    member = zlib.compressobj(wbits=31)
    return member.compress(content) + member.flush(zlib.Z_SYNC_FLUSH)


READ_STANDARD_INPUT = """
import sys
from otel_epping.replay.capture import Capture
with Capture("-") as capture:
    for batch in capture.batches():
        print(len(batch), capture.size, capture.name, flush=True)
"""


def pipe() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", READ_STANDARD_INPUT]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)


@pytest.mark.parametrize("content", [CONTENT, compressed(CONTENT), pcapng(PACKETS)], ids=["pcap", "gzip", "pcapng"])
def test_standard_input_byte_by_byte(content: bytes) -> None:
    with pipe() as process:
        assert process.stdin
        for byte in content:
            process.stdin.write(bytes([byte]))
        process.stdin.close()
        assert process.stdout
        lines = process.stdout.read().decode().splitlines()
    assert sum(int(line.split()[0]) for line in lines) == len(PACKETS)
    assert {line.split(" ", 1)[1] for line in lines} == {"0 standard input"}


@pytest.mark.parametrize("content", [CONTENT, _flushed(CONTENT)], ids=["plain", "gzip"])
def test_packets_of_a_pipe_are_returned_at_once(content: bytes) -> None:
    """Packets are returned before the pipe ends, because users may watch a capture in progress."""
    with pipe() as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(content)
        assert process.stdout.readline()


def test_the_package_imports_neither_kernel_nor_opentelemetry() -> None:
    program = "import sys, otel_epping.replay.capture; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "otel_epping.replay.capture.pcapng" in loaded
    assert not [name for name in loaded if name.startswith(("otel_epping.kernel", "opentelemetry"))]
