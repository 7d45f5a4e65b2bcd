# SPDX-License-Identifier: Apache-2.0
"""The loaded program: its entry points and its maps, by their file descriptors."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Map:
    """A map of the loaded program: its descriptor, and its value's and key's layouts, as BCC describes structs.

    A table that is one value, as bpf/direct_value.h has them, has so many `rows`, each of them with the layout.
    """

    fd: int
    layout: dict[str, Any] | None
    key_layout: dict[str, Any] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Program:
    """The loaded program: descriptors of its entry points and maps, by name.

    compiler     what compiled it: "BCC 0.31.0 with LLVM 19.1"
    bcc_version  "0.31.0"
    interpreter  the Python that has BCC
    verifier_s   how long the kernel took to verify both entry points, side by side
    """

    entry_points: dict[str, int]
    maps: dict[str, Map]
    compiler: str
    bcc_version: str
    interpreter: str
    verifier_s: float
