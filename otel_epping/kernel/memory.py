# SPDX-License-Identifier: Apache-2.0
"""The program's arrays as numpy arrays, without a copy.

This is the one place that knows C layouts, and it does not know them by heart: BCC describes each table of the compiled
program, the loader hands the description on, and the dtype is made from it. Its size is then compared with what the
kernel says of the map, so a compiler with other ideas of alignment is found at start and not in the figures.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.loader import Map

# What is mapped at a time: a bound on memory, and of what is touched of it, a cache holds most.
_WINDOW_BYTES = 2 << 20


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

    The kernel maps all pages at once, at 0.3 us each, and they count as resident. So rows are mapped to be looked at,
    and unmapped when the last numpy array that shows them is gone: who wants to keep them makes a copy.

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

    def rows(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Rows from `begin` to before `end`, at least one."""
        size = self.dtype.itemsize
        page = begin * size // mmap.PAGESIZE * mmap.PAGESIZE
        mapped = mmap.mmap(self._fd, end * size - page, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        return np.frombuffer(mapped, self.dtype, end - begin, begin * size - page)

    def windows(self, rows: int, together: int = 1) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """The first `rows` rows in parts of some MB, which don't divide `together` rows: where each begins, and it."""
        window = max(_WINDOW_BYTES // self.dtype.itemsize // together, 1) * together
        for begin in range(0, rows, window):
            yield begin, self.rows(begin, min(begin + window, rows))
