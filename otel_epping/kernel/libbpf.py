# SPDX-License-Identifier: Apache-2.0
"""The functions of libbpf.so.1 that the agent calls. Each function raises OSError with the kernel's errno.

BCC depends on libbpf, so each machine with BCC also has libbpf. Loading libbpf takes little time and memory, because
libbpf does not need LLVM.
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

# The flag BPF_F_BEFORE attaches a program before another program. If no other program is named, the kernel attaches the
# program at the head of the hook's list (bpf_mprog_attach() of kernel/bpf/mprog.c).
BPF_F_BEFORE = 1 << 3
# The program names of every otel-epping agent begin with this prefix.
PROGRAM_PREFIX = "epping_"

# enum bpf_tc_attach_point, libbpf.h
BPF_TC_INGRESS = 1
BPF_TC_EGRESS = 2

_BPF_MAP_TYPE_ARRAY = 2
_BPF_PROG_TYPE_SCHED_CLS = 3
# r0 = -1 (TCX_NEXT: the next program decides); exit
_NOOP = bytes.fromhex("b7000000ffffffff 9500000000000000")
_BATCH_SIZE = 4096  # elements
# The kernel has no batch operation for this type of map (ENOTSUPP of linux/errno.h, EINVAL).
_NO_BATCH = (524, errno.EINVAL)
_MAX_PROGRAMS = 64  # BPF_MPROG_MAX, linux/bpf_mprog.h
# struct bpf_prog_info, linux/bpf.h: the size of the members up to `name`, and the position of `name`
_PROGRAM_INFO_BYTES = 80
_PROGRAM_NAME = slice(64, 80)


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise EppingError(missing_message()) from error
    # libbpf returns and also prints each error. libbpf_set_print(None) disables printing, because the error "the qdisc
    # already exists" is expected.
    library.libbpf_set_print(None)
    library.libbpf_version_string.restype = ctypes.c_char_p
    return library


def missing_message() -> str:
    """Returns the error message for a machine without libbpf.so.1.

    The message tells the user how to install libbpf.so.1.
    """
    try:
        ctypes.CDLL("libbpf.so.0")
    except OSError:
        return "libbpf.so.1 is not installed: apt-get install libbpf1"
    return "libbpf.so.0 is too old: use a distribution with libbpf.so.1, such as Debian 12 or Ubuntu 24.04"


def version() -> str:
    """Returns the library's version. Raises EppingError if the library is missing or too old."""
    return str(_library().libbpf_version_string().decode())


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def create_cell() -> int:
    """Creates an array map with one element of 4 bytes. Returns the descriptor of the map."""
    return _check(int(_library().bpf_map_create(_BPF_MAP_TYPE_ARRAY, b"epping_cell", 4, 4, 1, None)))


def load_noop() -> int:
    """Loads a program that ignores all packets. Returns the program's descriptor."""
    load = _library().bpf_prog_load
    return _check(int(load(_BPF_PROG_TYPE_SCHED_CLS, b"epping_noop", b"GPL", _NOOP, len(_NOOP) // 8, None)))


class _LinkOptions(ctypes.Structure):
    """The first members of struct bpf_link_create_opts. libbpf 1.3 introduced more members for TCX hooks."""

    _fields_ = (("size", ctypes.c_size_t), ("flags", ctypes.c_uint32), ("reserved", ctypes.c_uint32))


def link_create(program_fd: int, ifindex: int, attach_type: int, flags: int = 0) -> int:
    """Attaches a program to a hook of an interface. The program runs last unless `flags` define another position.

    Returns the descriptor of the link. The kernel detaches the program when the descriptor is closed.
    """
    options = ctypes.byref(_LinkOptions(ctypes.sizeof(_LinkOptions), flags, 0))
    return _check(int(_library().bpf_link_create(program_fd, ifindex, attach_type, options)))


def link_update(link_fd: int, program_fd: int) -> None:
    """Replaces the program of a link."""
    _check(_library().bpf_link_update(link_fd, program_fd, None))


def link_detach(link_fd: int) -> None:
    """Detaches a link's program at once.

    Closing the link's descriptor instead would have no effect while another process has a copy of the descriptor.
    """
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
    """Returns the id of a TCX link's program, and the index of the link's interface.

    The index is 0 if the link is detached.
    """
    info = _LinkInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    _check(_library().bpf_obj_get_info_by_fd(link_fd, ctypes.byref(info), ctypes.byref(size)))
    return info.program, info.ifindex


def attached_count(ifindex: int, attach_type: int) -> int:
    """Returns the number of programs on a hook of an interface. Raises OSError with EINVAL if there is no such hook."""
    count = ctypes.c_uint32(0)
    _check(_library().bpf_prog_query(ifindex, attach_type, 0, None, None, ctypes.byref(count)))
    return count.value


def attached_programs(ifindex: int, attach_type: int) -> list[int]:
    """Returns the ids of the programs on a hook of an interface, in the order of execution. Needs CAP_NET_ADMIN."""
    ids, count = (ctypes.c_uint32 * _MAX_PROGRAMS)(), ctypes.c_uint32(_MAX_PROGRAMS)
    _check(_library().bpf_prog_query(ifindex, attach_type, 0, None, ids, ctypes.byref(count)))
    return list(ids[: count.value])


def program_name(program: int) -> str:
    """Returns the name of the program with this id.

    Returns '' if CAP_SYS_ADMIN is missing or the program does not exist.
    """
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
    """struct bpf_tc_hook, libbpf.h."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("ifindex", ctypes.c_int),
        ("point", ctypes.c_int),
        ("parent", ctypes.c_uint32),
    )


class _TcOptions(ctypes.Structure):
    """struct bpf_tc_opts, libbpf.h."""

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


def tc_create_qdisc(ifindex: int) -> bool:
    """Adds a clsact qdisc to an interface. Returns False if the interface already has a clsact or ingress qdisc."""
    try:
        _check(_library().bpf_tc_hook_create(_tc_hook(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS)))
    except FileExistsError:
        return False
    return True


def tc_remove_qdisc(ifindex: int) -> None:
    """Removes the clsact qdisc of an interface, together with all filters of the qdisc."""
    _check(_library().bpf_tc_hook_destroy(_tc_hook(ifindex, BPF_TC_INGRESS | BPF_TC_EGRESS)))


def tc_attach(program_fd: int, ifindex: int, point: int, handle: int, priority: int) -> None:
    """Adds a program to a clsact qdisc, as a direct-action filter.

    If `priority` is 0, the kernel chooses the priority. The chosen priority is 49152, or one less than the lowest
    priority that the kernel has chosen for another filter.
    """
    options = _tc_options(program_fd=program_fd, handle=handle, priority=priority)
    _check(_library().bpf_tc_attach(_tc_hook(ifindex, point), options))


def tc_detach(ifindex: int, point: int, handle: int, priority: int) -> None:
    """Removes one filter from a clsact qdisc."""
    _check(_library().bpf_tc_detach(_tc_hook(ifindex, point), _tc_options(handle=handle, priority=priority)))


def map_update(map_fd: int, key: bytes | None, value: bytes) -> None:
    """Sets an element of a map. If the map is a queue, pushes the value to the queue; `key` is None in this case."""
    _check(_library().bpf_map_update_elem(map_fd, key, value, 0))


def map_update_all(map_fd: int, keys: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    """Sets many elements of a map. If an element occurs several times, the last value is used."""
    count = ctypes.c_uint32(len(keys))
    pointers = ctypes.c_void_p(keys.ctypes.data), ctypes.c_void_p(values.ctypes.data)
    if not len(keys) or _library().bpf_map_update_batch(map_fd, *pointers, ctypes.byref(count), None) == 0:
        return
    if ctypes.get_errno() not in _NO_BATCH:
        _check(-1)
    for key, value in zip(keys, values, strict=True):
        map_update(map_fd, key.tobytes(), value.tobytes())


def map_delete_all(map_fd: int, keys: npt.NDArray[Any]) -> None:
    """Deletes elements of a map. Ignores elements that do not exist."""
    begin = 0
    while begin < len(keys):
        count = ctypes.c_uint32(len(keys) - begin)
        first = ctypes.c_void_p(keys[begin:].ctypes.data)
        if _library().bpf_map_delete_batch(map_fd, first, ctypes.byref(count), None) == 0:
            return
        if ctypes.get_errno() != errno.ENOENT:
            break
        begin += count.value + 1  # the kernel stops at an element that does not exist
    for key in keys[begin:]:
        map_delete(map_fd, key.tobytes())


def map_lookup(map_fd: int, key: bytes, size: int) -> bytes | None:
    """Returns the value of a key, or None if the map does not have the key. `size` is the value's size in bytes."""
    value = ctypes.create_string_buffer(size)
    if _library().bpf_map_lookup_elem(map_fd, key, value) < 0:
        return None
    return value.raw


def map_delete(map_fd: int, key: bytes) -> bool:
    """Deletes an element. Returns true if the element existed."""
    return int(_library().bpf_map_delete_elem(map_fd, key)) == 0


def map_batches(
    map_fd: int, key: np.dtype[Any], value: np.dtype[Any]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yields the elements of a hash map in batches of up to 4096 elements.

    A batch is an array of keys and an array of values. The arrays are reused for the next batch. Elements that are
    added during the iteration may be missing. The caller may delete the elements of a batch before it requests the next
    batch.
    """
    keys, values = np.empty(_BATCH_SIZE, key), np.empty(_BATCH_SIZE, value)
    position, next_position = ctypes.c_uint32(), ctypes.c_uint32()
    start = None
    has_more = True
    while has_more:
        count = ctypes.c_uint32(_BATCH_SIZE)
        output = ctypes.c_void_p(keys.ctypes.data), ctypes.c_void_p(values.ctypes.data), ctypes.byref(count)
        result = _library().bpf_map_lookup_batch(map_fd, start, ctypes.byref(next_position), *output, None)
        has_more = result == 0
        if not has_more and ctypes.get_errno() != errno.ENOENT:  # ENOENT: the last batch was read
            _check(result)
        yield keys[: count.value], values[: count.value]
        position.value = next_position.value
        start = ctypes.byref(position)
