# SPDX-License-Identifier: Apache-2.0
"""The program's arrays as numpy arrays, without a copy.

This is the one place that knows C layouts, and it does not know them by heart: BCC describes each table of the compiled
program, the loader hands the description on, and the dtype is made from it. Its size is then compared with what the
kernel says of the map, so a compiler with other ideas of alignment is found at start and not in the figures.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.errors import EppingError
from otel_epping.kernel.program import Map

# What is mapped at a time: a bound on memory, and of what is touched of it, a cache holds most.
_WINDOW_BYTES = 3 << 20


_MAP_FAILED = ctypes.c_void_p(-1).value
_library = ctypes.CDLL(None, use_errno=True)
_library.mmap.restype = ctypes.c_void_p
_library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def dtype_of(layout: dict[str, Any]) -> np.dtype[Any]:
    """The dtype of a layout {"size": bytes, "fields": [[name, offset, element, count]...]} (see load/compiler.py)."""
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


class _Pages:
    """Pages of a map, mapped as long as this is there: to numpy an array of bytes, which keeps it.

    Python's own mmap lets no other thread run while the kernel maps. Raises OSError.
    """

    def __init__(self, fd: int, size: int, offset: int) -> None:
        self._size, self._address = size, None
        address = _library.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, offset)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address = address
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, True), "version": 3}

    def __del__(self) -> None:
        if self._address:
            _library.munmap(self._address, self._size)


class Array:
    """A BPF_F_MMAPABLE array of structs, read-only; rows change under the reader's eyes.

    The kernel maps all pages at once, and they count as resident: 2.2 kB a subnet, as much again as all that is kept of
    it. So rows are mapped to be looked at, which takes 0.3 us a page, and unmapped when the last numpy array that shows
    them is gone. Who wants to keep them makes a copy.

    Raises EppingError if layout and kernel disagree.
    """

    def __init__(self, name: str, array: Map) -> None:
        info = map_info(array.fd)
        size = array.layout["size"] if array.layout else 0
        described = size * (array.rows or 1)
        if described != info["value_size"]:
            raise EppingError(
                f"map {name}: BCC describes {described} bytes, the kernel has {info['value_size']}: "
                "please report this, with the version of BCC"
            )
        # Elements lie at multiples of 8 bytes (the kernel's array_map_alloc()); a layout has no padding at its end.
        self.dtype = dtype_of((array.layout or {}) | {"size": -(-size // 8) * 8})
        self.length = array.rows or info["max_entries"]
        self._fd = array.fd

    def rows(self, begin: int, end: int) -> npt.NDArray[Any]:
        """Rows from `begin` to before `end`, at least one."""
        size = self.dtype.itemsize
        page = begin * size // mmap.PAGESIZE * mmap.PAGESIZE
        mapped = np.asarray(_Pages(self._fd, end * size - page, page))
        return np.frombuffer(mapped, self.dtype, end - begin, begin * size - page)

    def parts(self, rows: int, together: int = 1) -> Iterator[tuple[int, int]]:
        """Where parts of the first `rows` rows begin and end: some MB each, which don't divide `together` rows."""
        part = max(_WINDOW_BYTES // self.dtype.itemsize // together, 1) * together
        for begin in range(0, rows, part):
            yield begin, min(begin + part, rows)

    def windows(self, rows: int, together: int = 1) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """These parts: where each begins, and it."""
        for begin, end in self.parts(rows, together):
            yield begin, self.rows(begin, end)


def write(array: Map, row: int, value: bytes) -> None:
    """Writes a row of a table that is one value: there the kernel's own update would be one of all rows. Who reads it
    meanwhile may find a part of it, as with the kernel's. Raises OSError."""
    offset = row * len(value)
    page = offset // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(array.fd, offset - page + len(value), offset=page) as pages:
        pages[offset - page :] = value
