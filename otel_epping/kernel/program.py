# SPDX-License-Identifier: Apache-2.0
"""The file descriptors of the loaded program and of its maps."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Map:
    """A map of the loaded program.

    fd          the descriptor of the map
    layout      the layout of the values, as load/compiler.py describes it; None if a value is not a struct
    key_layout  the layout of the keys, as load/compiler.py describes it; None if a key is not a struct
    rows        the number of rows of a direct table (bpf/direct_value.h); None for other maps. A direct table is a map
                with one value. The value consists of rows, and each row has the layout `layout`
    """

    fd: int
    layout: dict[str, Any] | None
    key_layout: dict[str, Any] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Program:
    """The loaded program.

    entry_points  the descriptors of epping_ingress and epping_egress, by name
    maps          the maps of the program, by name
    compiler      the versions of BCC and LLVM as a text, such as "BCC 0.31.0 with LLVM 19.1"
    bcc_version   the version of BCC, such as "0.31.0"
    interpreter   the path of the Python interpreter that can import BCC
    verifier_s    the time in seconds in which the kernel verified both entry points, in parallel
    """

    entry_points: dict[str, int]
    maps: dict[str, Map]
    compiler: str
    bcc_version: str
    interpreter: str
    verifier_s: float
