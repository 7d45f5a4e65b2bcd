# SPDX-License-Identifier: Apache-2.0
"""The program's array maps as numpy arrays, without a copy.

BCC describes the layout of each table of the compiled program. The loader passes this description to the agent, and the
agent makes a numpy dtype from the description. So no C layout is repeated in Python. The agent compares the size of
each layout with the value size that the kernel reports. If a compiler aligns fields differently, the sizes differ. The
agent then fails when it starts, instead of reporting wrong numbers.
"""

import ctypes
import mmap
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.errors import EppingError
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.program import Map

# The size of the parts in which a map is mapped. Small parts keep the agent's memory use low, and most of a part fits
# into the CPU's cache.
_PART_BYTES = 3 << 20
# Rows that are further apart are mapped separately. To map fewer pages takes less time than one more mapping.
_FAR_ROWS = 256

_MAP_FAILED = ctypes.c_void_p(-1).value
_library = ctypes.CDLL(None, use_errno=True)
_library.mmap.restype = ctypes.c_void_p
_library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


def dtype_of(layout: dict[str, Any]) -> np.dtype[Any]:
    """Returns the dtype for a layout that layout() in load/compiler.py has returned."""
    names, formats, offsets = [], [], []
    for name, offset, element, count in layout["fields"]:
        base = dtype_of(element) if isinstance(element, dict) else np.dtype(element.replace("u", "uint"))
        names.append(name)
        formats.append(np.dtype((base, (count,))) if count else base)
        offsets.append(offset)
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": layout["size"]})


def map_info(fd: int) -> dict[str, int]:
    """Returns the numbers that /proc/self/fdinfo shows for a map or program, such as value_size or memlock (bytes)."""
    info = {}
    for line in Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if value.strip().isdigit():
            info[name] = int(value)
    return info


class _Pages:
    """Pages of a map. The pages stay mapped while this object exists.

    A numpy array over the pages holds a reference to this object.

    Python's mmap module is not used, because the module holds the GIL while the kernel maps the pages. Raises OSError.
    """

    def __init__(self, fd: int, size: int, offset: int, *, writable: bool) -> None:
        self._size, self._address = size, None
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        address = _library.mmap(None, size, protection, mmap.MAP_SHARED, fd, offset)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._address = address
        self.__array_interface__ = {"shape": (size,), "typestr": "|u1", "data": (address, not writable), "version": 3}

    def __del__(self) -> None:
        if self._address:
            _library.munmap(self._address, self._size)


class Array:
    """An array map that has the flag BPF_F_MMAPABLE. Each row is a struct.

    The program may change rows while they are read. The kernel maps all pages of a mapping at once, and these pages
    count as resident memory of the process. A mapping of the whole table would take 2.2 kB for each subnet, which would
    double the agent's memory for each subnet. So rows are mapped only when they are needed. Mapping takes 0.3 us for
    each page. The rows are unmapped when the last numpy array that refers to these rows is freed. To keep the values of
    rows, copy the array.

    dtype   the dtype of a row
    length  the number of rows

    Raises EppingError if the size of the layout is not the size that the kernel reports.
    """

    def __init__(self, name: str, array: Map) -> None:
        info = map_info(array.fd)
        size = array.layout["size"] if array.layout else 0
        described = size * (array.rows or 1)
        if described != info["value_size"]:
            raise EppingError(
                f"map {name}: BCC describes a value of {described} bytes, the kernel one of {info['value_size']}: "
                "please report this, with the version of BCC"
            )
        # The kernel aligns elements to 8 bytes (array_map_alloc()). BCC's layouts have no padding at the end.
        self.dtype = dtype_of((array.layout or {}) | {"size": -(-size // 8) * 8})
        self.length = array.rows or info["max_entries"]
        self._fd = array.fd

    def rows(self, begin: int, end: int, *, writable: bool = False) -> npt.NDArray[Any]:
        """Maps the rows from `begin` to `end` - 1. `end` must be greater than `begin`."""
        size = self.dtype.itemsize
        page = begin * size // mmap.PAGESIZE * mmap.PAGESIZE
        mapped = np.asarray(_Pages(self._fd, end * size - page, page, writable=writable))
        return np.frombuffer(mapped, self.dtype, end - begin, begin * size - page)

    def parts(self, rows: int, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Divides the first `rows` rows into parts of up to 3 MB. Yields (first row, last row + 1) of each part.

        In each part except the last part, the number of rows is a multiple of `multiple`.
        """
        part = max(_PART_BYTES // self.dtype.itemsize // multiple, 1) * multiple
        for begin in range(0, rows, part):
            yield begin, min(begin + part, rows)

    def windows(self, rows: int, multiple: int = 1) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yields (number of the first row, mapped rows) of each part that parts() yields."""
        for begin, end in self.parts(rows, multiple):
            yield begin, self.rows(begin, end)

    def copies(self, rows: Indexes) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Yields (part of `rows`, copies of these rows of the map) for each part. `rows` must be sorted.

        Only pages near these rows are mapped. A part has up to 3 MB.
        """
        part = rows // max(_PART_BYTES // self.dtype.itemsize, 1)
        is_begin = (np.diff(rows, prepend=-1 - _FAR_ROWS) > _FAR_ROWS) | (np.diff(part, prepend=-1) != 0)
        for first, last in pairwise([*np.flatnonzero(is_begin).tolist(), len(rows)]):
            begin = int(rows[first])
            yield slice(first, last), self.rows(begin, int(rows[last - 1]) + 1)[rows[first:last] - begin]

    def clear(self, rows: Indexes) -> None:
        """Sets the given rows to 0. The program must not use these rows at the same time."""
        rows = np.sort(rows)
        for begin, end in self.parts(self.length):
            first, last = np.searchsorted(rows, (begin, end))
            if first < last:
                some = rows[first:last]
                self.rows(int(some[0]), int(some[-1]) + 1, writable=True)[some - some[0]] = 0


def write(array: Map, row: int, value: bytes) -> None:
    """Writes one row of a direct table (bpf/direct_value.h), through a mapping of the table.

    The system call bpf(2) could write only the whole table. The program may read a partly written row. With bpf(2), the
    program could read a partly written row, too. Raises OSError.
    """
    offset = row * len(value)
    page = offset // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(array.fd, offset - page + len(value), offset=page) as pages:
        pages[offset - page :] = value
