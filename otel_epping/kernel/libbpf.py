# SPDX-License-Identifier: Apache-2.0
"""The few calls of libbpf.so.1 that the agent makes, each raising OSError with the kernel's errno.

BCC's library is linked to libbpf, so it is there wherever BCC is; without LLVM it costs next to nothing to load.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.errors import EppingError

# enum bpf_attach_type, linux/bpf.h
BPF_TCX_INGRESS = 46
BPF_TCX_EGRESS = 47

_BPF_MAP_TYPE_ARRAY = 2
_BPF_PROG_TYPE_SCHED_CLS = 3
# r0 = -1 (TCX_NEXT: the verdict is the next program's); exit
_NOTHING = bytes.fromhex("b7000000ffffffff 9500000000000000")
_BATCH = 4096


@cache
def _library() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise EppingError("libbpf.so.1 is not installed: apt-get install libbpf1") from error


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def make_cell() -> int:
    """Makes an array of one cell of 4 bytes; its descriptor."""
    return _check(int(_library().bpf_map_create(_BPF_MAP_TYPE_ARRAY, b"epping_cell", 4, 4, 1, None)))


def load_nothing() -> int:
    """Loads a program for the hooks of an interface that leaves every packet alone; its descriptor."""
    load = _library().bpf_prog_load
    return _check(int(load(_BPF_PROG_TYPE_SCHED_CLS, b"epping_nothing", b"GPL", _NOTHING, len(_NOTHING) // 8, None)))


def link_create(program_fd: int, ifindex: int, attach_type: int) -> int:
    """Attaches a program to a hook of an interface; the attachment lives as long as the descriptor returned."""
    return _check(int(_library().bpf_link_create(program_fd, ifindex, attach_type, None)))


def attached_count(ifindex: int, attach_type: int) -> int:
    """How many programs are on a hook of an interface; fails with EINVAL where the kernel has no such hook."""
    count = ctypes.c_uint32(0)
    _check(_library().bpf_prog_query(ifindex, attach_type, 0, None, None, ctypes.byref(count)))
    return count.value


def map_update(map_fd: int, key: bytes | None, value: bytes) -> None:
    """Sets an element; for a queue (key None) pushes it."""
    _check(_library().bpf_map_update_elem(map_fd, key, value, 0))


def map_lookup(map_fd: int, key: bytes, size: int) -> bytes | None:
    """The element of `size` bytes at `key`, or None."""
    value = ctypes.create_string_buffer(size)
    if _library().bpf_map_lookup_elem(map_fd, key, value) < 0:
        return None
    return value.raw


def map_delete(map_fd: int, key: bytes) -> bool:
    """Deletes an element; whether it was there."""
    return int(_library().bpf_map_delete_elem(map_fd, key)) == 0


def map_batches(
    map_fd: int, key: np.dtype[Any], value: np.dtype[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """All elements of a hash map, some thousand at a time, as arrays of keys and of values.

    What is added meanwhile may be left out; what is in a batch may be deleted before the next one.
    """
    keys, values = np.empty(_BATCH, key), np.empty(_BATCH, value)
    here, there = ctypes.c_uint32(), ctypes.c_uint32()
    begin = None
    more = True
    while more:
        count = ctypes.c_uint32(_BATCH)
        to = ctypes.c_void_p(keys.ctypes.data), ctypes.c_void_p(values.ctypes.data), ctypes.byref(count)
        result = _library().bpf_map_lookup_batch(map_fd, begin, ctypes.byref(there), *to, None)
        more = result == 0
        if not more and ctypes.get_errno() != errno.ENOENT:  # which says that this was the last batch
            _check(result)
        yield keys[: count.value], values[: count.value]
        here.value = there.value
        begin = ctypes.byref(here)
