# SPDX-License-Identifier: Apache-2.0
"""The file descriptors of the loaded program and of its maps."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Map:
    """A map of the loaded program.

    fd          its descriptor
    layout      the layout of its value, as load/compiler.py describes it; None if the value is not a struct
    key_layout  the layout of its key, likewise
    rows        the number of rows of a direct table (bpf/direct_value.h), which is a map with one value; each row has
                the layout `layout`. None for other maps
    """

    fd: int
    layout: dict[str, Any] | None
    key_layout: dict[str, Any] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Program:
    """The loaded program.

    entry_points  descriptors of epping_ingress and epping_egress, by name
    maps          its maps, by name
    compiler      the compiler's versions: "BCC 0.31.0 with LLVM 19.1"
    bcc_version   the version of BCC: "0.31.0"
    interpreter   the path of the Python interpreter that has BCC
    verifier_s    how long the kernel took to verify both entry points, in parallel
    """

    entry_points: dict[str, int]
    maps: dict[str, Map]
    compiler: str
    bcc_version: str
    interpreter: str
    verifier_s: float
