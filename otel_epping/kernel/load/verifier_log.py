# SPDX-License-Identifier: Apache-2.0
"""Finds the source line at which the kernel's verifier rejects the program.

The loaded program has no debug information, and its cold blocks are moved. So after a rejection, the program is
compiled again with debug information and in its original order. When BCC compiles with debug information, BCC prints a
listing of source lines and instructions. The verifier's log contains the number of the rejected instruction. The
listing shows the source line of the rejected instruction. (The verifier could print source lines itself if the loader
passed line information to the verifier. BCC does not pass line information, and does not provide line information to
another loader.)

The loader runs this file by its path, so the file imports nothing from this package.
"""

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

DEBUG_SOURCE = 8  # of bcc.BPF(debug=)
_LOG_BYTES = 1 << 24
# BCC's listing has one line for each source line: "; text of the source line // Line  42". The instructions of the
# source line follow in the next lines. A line with an instruction consists of the instruction's number ("  17:"), a
# tab, and the instruction.
_LISTING = re.compile(r"^; (?P<text>.*) // Line *(?P<line>\d+)$|^ *(?P<instruction>\d+):\t", re.MULTILINE)
# The verifier's log has a line such as "17: (b7) r1 = 0" for each instruction. The last line of the log says how many
# instructions were processed.
_VERIFIED = re.compile(r"^(\d+): \([0-9a-f]{2}\) ", re.MULTILINE)
_PROCESSED = re.compile(r"^processed \d+ insns .*\n?", re.MULTILINE)


class Rejection(NamedTuple):
    """The reason why the verifier rejected the program.

    line     the number of the line in the compiled text, starting with 1; 0 if the line is unknown
    verdict  the verifier's last message
    log      the whole log of the verifier
    """

    line: int
    verdict: str
    log: str


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf's bpf.h.

    The members are the size of the struct, members that are always 0, and the level, size and address of the log.
    """

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("others", ctypes.c_uint32 * 9),
        ("pointers", ctypes.c_uint64 * 5),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log", ctypes.c_char_p),
    )


@contextmanager
def captured_stderr() -> Iterator[list[str]]:
    """Captures the text that Python and C libraries write to standard error.

    Yields an empty list. When the `with` block ends, the captured text is appended to the yielded list.
    """
    captured: list[str] = []
    saved_fd = os.dup(2)
    memory_fd = os.memfd_create("stderr")
    os.dup2(memory_fd, 2)
    try:
        yield captured
    finally:
        os.dup2(saved_fd, 2)
        os.close(saved_fd)
        with os.fdopen(memory_fd, "rb") as file:
            file.seek(0)
            captured.append(file.read().decode(errors="replace"))


def _listed_line(instruction: int, listing: str) -> tuple[int, str]:
    """Returns the number and the text of the line to which an instruction belongs in BCC's listing, or (0, "")."""
    line = 0, ""
    for match in _LISTING.finditer(listing):
        if match["line"]:
            line = int(match["line"]), match["text"].strip()
        elif int(match["instruction"]) >= instruction:
            break
    return line


def line_of(instruction: int, listing: str, source: Sequence[str]) -> int:
    """Returns the number of the source line from which an instruction was compiled; 0 if the line is unknown.

    The first line has the number 1. BCC makes a new text from the source and compiles the new text. BCC's listing has
    the line numbers of the new text. The new text has more lines than the source, for example one more line for each
    function. So this function finds the nearest listed line whose text occurs exactly once in the source. In the
    source and in the listing, the distance between this line and the wanted line is about the same.
    """
    number, text = _listed_line(instruction, listing)
    source_numbers: dict[str, list[int]] = {}
    for source_number, line in enumerate(source, 1):
        source_numbers.setdefault(line.strip(), []).append(source_number)
    listed_lines = [
        (int(match["line"]), match["text"].strip()) for match in _LISTING.finditer(listing) if match["line"]
    ]
    known = {listed: source_numbers[line][0] for listed, line in listed_lines if len(source_numbers.get(line, ())) == 1}
    if not number or not known:
        return 0
    nearest = min(known, key=lambda listed: abs(listed - number))
    expected = number - nearest + known[nearest]
    return min(source_numbers.get(text, [expected]), key=lambda candidate: abs(candidate - expected))


def explain(libbpf: Any, program_type: int, name: str, code: bytes, listing: str, source: Sequence[str]) -> Rejection:
    """Lets the kernel verify `code` again, and finds the reason for the rejection in the verifier's log.

    `code` was compiled from `source`. `listing` is BCC's listing of `code`.
    """
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options = _LoadOptions(ctypes.sizeof(_LoadOptions), log_level=1, log_size=len(log), log=ctypes.addressof(log))
    if libbpf.bpf_prog_load(program_type, name.encode(), b"GPL", code, len(code) // 8, ctypes.byref(options)) >= 0:
        return Rejection(0, "accepted when it is compiled with debug information", "")
    text = log.value.decode(errors="replace")
    verdict = _PROCESSED.sub("", text).strip().rpartition("\n")[2]
    instructions = _VERIFIED.findall(text)
    return Rejection(line_of(int(instructions[-1]), listing, source) if instructions else 0, verdict, text)
