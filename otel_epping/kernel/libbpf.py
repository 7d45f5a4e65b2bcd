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

from otel_epping.errors import EppingError

# enum bpf_attach_type, linux/bpf.h
BPF_TCX_INGRESS = 46
BPF_TCX_EGRESS = 47
BPF_NETKIT_PRIMARY = 54
BPF_NETKIT_PEER = 55

# Without a relative: at the head of the hook's list of programs (bpf_mprog_attach() of kernel/bpf/mprog.c).
BPF_F_BEFORE = 1 << 3
# What the names of our programs begin with.
OUR_NAMES = "epping_"

# enum bpf_tc_attach_point, bpf/libbpf.h
BPF_TC_INGRESS = 1
BPF_TC_EGRESS = 2

_BPF_MAP_TYPE_ARRAY = 2
_BPF_PROG_TYPE_SCHED_CLS = 3
# r0 = -1 (TCX_NEXT: the verdict is the next program's); exit
_NOTHING = bytes.fromhex("b7000000ffffffff 9500000000000000")
_BATCH = 4096
_MAX_PROGRAMS = 64  # BPF_MPROG_MAX, linux/bpf_mprog.h
# struct bpf_prog_info, linux/bpf.h: the members up to the name, and where the name is
_PROGRAM_INFO_BYTES = 80
_PROGRAM_NAME = slice(64, 80)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise EppingError(missing()) from error
    library.libbpf_set_print(None)  # it prints what it returns as well, and a qdisc that is there is no error
    library.libbpf_version_string.restype = ctypes.c_char_p
    return library


def missing() -> str:
    """What to say where there is no libbpf.so.1, the library that loads programs and attaches links as we do."""
    try:
        ctypes.CDLL("libbpf.so.0")
    except OSError:
        return "libbpf.so.1 is not installed: apt-get install libbpf1"
    return "libbpf.so.0 is too old: use a distribution with libbpf.so.1, as Debian 12 or Ubuntu 24.04"


def version() -> str:
    """The library's version. Raises EppingError if it is missing or too old."""
    return str(_library().libbpf_version_string().decode())


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


class _LinkOptions(ctypes.Structure):
    """The first members of struct bpf_link_create_opts: libbpf before 1.3 has no others for a TCX hook."""

    _fields_ = (("size", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("reserved", ctypes.c_uint32))


def link_create(program_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attaches a program to a hook of an interface, as the last one, or as `flags` say; the attachment lives as long as
    the descriptor returned.
    """
    options = ctypes.byref(_LinkOptions(ctypes.sizeof(_LinkOptions), flags, 0))
    return _check(int(_library().bpf_link_create(program_fd, ifindex, attach_type, options)))


def link_update(link_fd: int, program_fd: int) -> None:
    """Puts another program in the place of a link's program."""
    _check(_library().bpf_link_update(link_fd, program_fd, None))


def link_detach(link_fd: int) -> None:
    """Takes a link's program off its hook at once: closing the descriptor does so later, if others have one as well."""
    _check(_library().bpf_link_detach(link_fd))


class _LinkInfo(ctypes.Structure):
    """struct bpf_link_info of a TCX link."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("program", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32),
        ("ifindex", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
    )


def link_target(link_fd: int) -> tuple[int, int]:
    """The id of a TCX link's program, and the index of its interface: 0 if the link was detached."""
    info = _LinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(_library().bpf_obj_get_info_by_fd(link_fd, ctypes.byref(info), ctypes.byref(size)))
    return info.program, info.ifindex


def attached_count(ifindex: int, attach_type: int) -> int:
    """How many programs are on a hook of an interface; fails with EINVAL where the kernel has no such hook."""
    count = ctypes.c_uint32(0)
    _check(_library().bpf_prog_query(ifindex, attach_type, 0, None, None, ctypes.byref(count)))
    return count.value


def attached_programs(ifindex: int, attach_type: int) -> list[int]:
    """The ids of the programs on a hook of an interface, in the order in which they run. Takes CAP_NET_ADMIN."""
    ids, count = (ctypes.c_uint32 * _MAX_PROGRAMS)(), ctypes.c_uint32(_MAX_PROGRAMS)
    _check(_library().bpf_prog_query(ifindex, attach_type, 0, None, ids, ctypes.byref(count)))
    return list(ids[: count.value])


def program_name(program: int) -> str:
    """The name of a program by its id; '' without CAP_SYS_ADMIN, or if the program is gone."""
    fd = int(_library().bpf_prog_get_fd_by_id(program))
    if fd < 0:
        return ""
    info = ctypes.create_string_buffer(_PROGRAM_INFO_BYTES)
    size = ctypes.c_uint32(_PROGRAM_INFO_BYTES)
    try:
        _check(_library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(size)))
    finally:
        os.close(fd)
    return info.raw[_PROGRAM_NAME].split(b"\0")[0].decode(errors="backslashreplace")


class _TcHook(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _TcOptions(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_size_t),
        ("program_fd", ctypes.c_int),
        ("flags", ctypes.c_uint32),
        ("program_id", ctypes.c_uint32),
        ("handle", ctypes.c_uint32),
        ("priority", ctypes.c_uint32),
    )


def _tc_hook(ifindex: int, point: int) -> Any:
    return ctypes.byref(_TcHook(ctypes.sizeof(_TcHook), ifindex, point))


def _tc_options(**values: int) -> Any:
    return ctypes.byref(_TcOptions(size=ctypes.sizeof(_TcOptions), **values))


def tc_make_qdisc(ifindex: int) -> bool:
    """Gives an interface a clsact qdisc; False if it has one, or another in its place."""
    try:
        _check(_library().bpf_tc_hook_create(_tc_hook(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS)))
    except FileExistsError:
        return False
    return True


def tc_remove_qdisc(ifindex: int) -> None:
    """Takes the clsact qdisc off an interface, with all that is on it."""
    _check(_library().bpf_tc_hook_destroy(_tc_hook(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS)))


def tc_attach(program_fd: int, ifindex: int, point: int, handle: int, priority: int) -> None:
    """Puts a program on a clsact qdisc, as a direct-action filter. With priority 0 the kernel chooses one: 49152 or, if
    there are such filters, one less than the least of theirs.
    """
    options = _tc_options(program_fd=program_fd, handle=handle, priority=priority)
    _check(_library().bpf_tc_attach(_tc_hook(ifindex, point), options))


def tc_detach(ifindex: int, point: int, handle: int, priority: int) -> None:
    """Takes one filter off a clsact qdisc."""
    _check(_library().bpf_tc_detach(_tc_hook(ifindex, point), _tc_options(handle=handle, priority=priority)))


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
