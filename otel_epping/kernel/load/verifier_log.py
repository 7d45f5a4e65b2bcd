# SPDX-License-Identifier: Apache-2.0
"""Finds the line of our source at which the kernel's verifier rejects the program.

The program that is loaded has no debug information, and its cold blocks are moved. So it is compiled once more, with
debug information and nothing moved. BCC then lists which instructions belong to which line, and the verifier's log
names the instruction that it rejects. (The verifier prints lines, too, if it is given them; but it forgets those where
BCC loads the program, and they cannot be had from BCC to load it ourselves.)

The loader runs this file by its path, so the file imports nothing of ours.
"""

import ctypes
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

DEBUG_SOURCE = 8  # of bcc.BPF(debug=)
_LOG_BYTES = 1 << 24
# What BCC lists: "; text of the line // Line  42", before the instructions of the line, each "  17:" and what it is.
_LISTED = re.compile(r"^; (?P<text>.*) // Line *(?P<line>\d+)$|^ *(?P<instruction>\d+):\t", re.MULTILINE)
# What the verifier logs of an instruction: "17: (b7) r1 = 0", and in the end how many it has processed.
_VERIFIED = re.compile(r"^(\d+): \([0-9a-f]{2}\) ", re.MULTILINE)
_PROCESSED = re.compile(r"^processed \d+ insns .*\n?", re.MULTILINE)


class Rejection(NamedTuple):
    """The line of the text that was compiled, from 1, or 0 if it is unknown; the verifier's verdict, and its log."""

    line: int
    verdict: str
    log: str


class _LoadOptions(ctypes.Structure):
    """libbpf's struct bpf_prog_load_opts (bpf/bpf.h): its size, what is left at 0, where the verifier's log goes."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("others", ctypes.c_uint32 * 9),
        ("pointers", ctypes.c_uint64 * 5),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log", ctypes.c_char_p),
    )


@contextmanager
def listing() -> Iterator[list[str]]:
    """What the body prints to standard error, from C as well: the only element of the list, once the body has ended."""
    printed: list[str] = []
    kept = os.dup(2)
    memory = os.memfd_create("listing")
    os.dup2(memory, 2)
    try:
        yield printed
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        with os.fdopen(memory, "rb") as file:
            file.seek(0)
            printed.append(file.read().decode(errors="replace"))


def _listed_line(instruction: int, listed: str) -> tuple[int, str]:
    """Number and text of the line to which an instruction belongs, by BCC's listing; (0, "") if it doesn't say."""
    line = 0, ""
    for match in _LISTED.finditer(listed):
        if match["line"]:
            line = int(match["line"]), match["text"].strip()
        elif int(match["instruction"]) >= instruction:
            break
    return line


def line_of(instruction: int, listed: str, source: Sequence[str]) -> int:
    """The line of the source, from 1, to which an instruction belongs; 0 if it is unknown.

    BCC numbers the lines of the text that it made of the source, which has more: one for each function, above all. How
    many more, the nearest line tells whose text stands in the source once.
    """
    number, text = _listed_line(instruction, listed)
    places: dict[str, list[int]] = {}
    for place, line in enumerate(source, 1):
        places.setdefault(line.strip(), []).append(place)
    listed_lines = [(int(match["line"]), match["text"].strip()) for match in _LISTED.finditer(listed) if match["line"]]
    known = {line: places[words][0] for line, words in listed_lines if len(places.get(words, ())) == 1}
    if not number or not known:
        return 0
    nearest = min(known, key=lambda line: abs(line - number))
    expected = number - nearest + known[nearest]
    return min(places.get(text, [expected]), key=lambda place: abs(place - expected))


def explain(libbpf: Any, kind: int, name: str, code: bytes, listed: str, source: Sequence[str]) -> Rejection:
    """Has the kernel verify `code` once more, for its log. `listed` is BCC's listing of these instructions, compiled of
    `source`.
    """
    log = ctypes.create_string_buffer(_LOG_BYTES)
    options = _LoadOptions(ctypes.sizeof(_LoadOptions), log_level=1, log_size=len(log), log=ctypes.addressof(log))
    if libbpf.bpf_prog_load(kind, name.encode(), b"GPL", code, len(code) // 8, ctypes.byref(options)) >= 0:
        return Rejection(0, "accepted when it is compiled with debug information", "")
    text = log.value.decode(errors="replace")
    verdict = _PROCESSED.sub("", text).strip().rpartition("\n")[2]
    verified = _VERIFIED.findall(text)
    return Rejection(line_of(int(verified[-1]), listed, source) if verified else 0, verdict, text)
