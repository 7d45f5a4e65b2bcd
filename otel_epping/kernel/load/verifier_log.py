# SPDX-License-Identifier: Apache-2.0
"""Finds the source line at which the kernel's verifier rejects the program.

The loaded program has no debug information, and its cold blocks are moved. So after a rejection it is compiled again,
with debug information and in its original order. BCC then prints a listing of the lines and their instructions, and the
verifier's log names the rejected instruction. (The verifier can print source lines itself, but it does not when BCC
loads the program, and BCC does not hand out the line information that another loader would need.)

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
# BCC's listing: "; text of the line // Line  42", then the instructions of the line: "  17:", a tab, the instruction.
_LISTING = re.compile(r"^; (?P<text>.*) // Line *(?P<line>\d+)$|^ *(?P<instruction>\d+):\t", re.MULTILINE)
# The verifier's log: "17: (b7) r1 = 0" for each instruction, and at the end the number of processed instructions.
_VERIFIED = re.compile(r"^(\d+): \([0-9a-f]{2}\) ", re.MULTILINE)
_PROCESSED = re.compile(r"^processed \d+ insns .*\n?", re.MULTILINE)


class Rejection(NamedTuple):
    """Why the verifier rejected the program.

    line     number of the line in the compiled text, from 1; 0 if it is unknown
    verdict  the verifier's last message
    log      the verifier's whole log
    """

    line: int
    verdict: str
    log: str


class _LoadOptions(ctypes.Structure):
    """struct bpf_prog_load_opts of libbpf's bpf.h: its size, members that stay 0, and the buffer for the log."""

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
    """Captures standard error, also the output of C libraries. The list gets its only element when the body ends."""
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
    """Returns number and text of an instruction's line in BCC's listing; (0, "") if the listing has no line for it."""
    line = 0, ""
    for match in _LISTING.finditer(listing):
        if match["line"]:
            line = int(match["line"]), match["text"].strip()
        elif int(match["instruction"]) >= instruction:
            break
    return line


def line_of(instruction: int, listing: str, source: Sequence[str]) -> int:
    """Returns the source line, from 1, that an instruction was compiled from; 0 if it is unknown.

    BCC compiles a text that it made from the source, and numbers the lines of that text. It has more lines than the
    source, for example one for each function. The difference is taken from the nearest listed line whose text occurs
    once in the source.
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
    """Lets the kernel verify `code` again, with a log. `listing` is BCC's listing of `code`, compiled from `source`."""
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options = _LoadOptions(ctypes.sizeof(_LoadOptions), log_level=1, log_size=len(log), log=ctypes.addressof(log))
    if libbpf.bpf_prog_load(program_type, name.encode(), b"GPL", code, len(code) // 8, ctypes.byref(options)) >= 0:
        return Rejection(0, "accepted when it is compiled with debug information", "")
    text = log.value.decode(errors="replace")
    verdict = _PROCESSED.sub("", text).strip().rpartition("\n")[2]
    instructions = _VERIFIED.findall(text)
    return Rejection(line_of(int(instructions[-1]), listing, source) if instructions else 0, verdict, text)
