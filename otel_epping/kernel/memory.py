# SPDX-License-Identifier: Apache-2.0
"""The program's arrays as numpy arrays, without a copy and without a system call.

This is the one place that knows C layouts, and it does not know them by heart: BCC describes each table of the compiled
program, the loader hands the description on, and the dtype is made from it. Its size is then compared with what the
kernel says of the map, so a compiler with other ideas of alignment is found at start and not in the figures.
"""

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.loader import Map


def dtype_of(layout: dict[str, Any]) -> np.dtype[Any]:
    """The dtype of a layout {"size": bytes, "fields": [[name, offset, element, count]...]} (see loader_child.py)."""
    names, formats, offsets = [], [], []
    for name, offset, element, count in layout["fields"]:
        base = dtype_of(element) if isinstance(element, dict) else np.dtype(element.replace("u", "uint"))
        names.append(name)
        formats.append(np.dtype((base, (count,))) if count else base)
        offsets.append(offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": layout["size"]})


def map_info(fd: int) -> dict[str, int]:
    """What the kernel says of a map or program behind a descriptor: value_size, max_entries, memlock (bytes)..."""
    info = {}
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.strip().isdigit():
            info[name] = int(value)
    return info


class Array:
    """A BPF_F_MMAPABLE array of structs, read-only; rows change under the reader's eyes.

    The kernel maps all pages at once, and they count as resident, so only as many rows are mapped as were asked for.
    Raises EppingError if layout and kernel disagree.
    """

    def __init__(self, name: str, array: Map) -> None:
        info = map_info(array.fd)
        described = array.layout["size"] if array.layout else 0
        if described != info["value_size"]:
            raise EppingError(
                f"map {name}: BCC describes {described} bytes, the kernel has {info['value_size']}: "
                "please report this, with the version of BCC"
            )
        # Elements lie at multiples of 8 bytes (the kernel's array_map_alloc()); a layout has no padding at its end.
        self.dtype = dtype_of((array.layout or {}) | {"size": -(-described // 8) * 8})
        self.length = info["max_entries"]
        self._fd = array.fd
        self._mapped = np.zeros(0, self.dtype)

    def first(self, rows: int) -> npt.NDArray[Any]:
        """The first `rows` rows."""
        mapped = self._mapped  # another thread may put its own in place meanwhile
        if rows > len(mapped):
            page = os.sysconf("SC_PAGE_SIZE")
            # A quarter more than needed, so that a growing array is seldom mapped anew.
            more = min(rows + rows // 4, self.length)
            size = -(-more * self.dtype.itemsize // page) * page
            mapped = np.frombuffer(mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ), self.dtype, more)
            self._mapped = mapped
        return mapped[:rows]
