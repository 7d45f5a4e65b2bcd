# SPDX-License-Identifier: Apache-2.0
"""The bare look-up: a program that looks up the flow of a packet in a hash map, and does nothing else.

Each program that keeps state per flow needs at least the time of this look-up. The map contains the flows of a workload
and is as large as our flow table. With many flows, each program needs more time for a packet than with one flow. The
bare look-up shows how much of the additional time is caused by memory accesses.
"""

import ctypes
import os
import struct

from bench import programs
from bench.packets import FLOW_BYTES, Bytes
from bench.programs import Contender
from otel_epping.kernel import libbpf

LRU, HASH = "bare lru", "bare hash"

_TYPES = {HASH: 1, LRU: 9}  # enum bpf_map_type, linux/bpf.h
_LOAD_BYTES, _LOOKUP = 26, 1  # enum bpf_func_id: skb_load_bytes, map_lookup_elem
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD
_FRAME_POINTER = 10


def _instruction(code: int, to: int = 0, of: int = 0, offset: int = 0, number: int = 0) -> bytes:
    return struct.pack("=BBhi", code, of << 4 | to, offset, number)


def _program(table: int, key_size: int) -> bytes:
    """Returns a program that copies FLOW_BYTES of the packet into a zeroed key on the stack, and looks up the key."""
    stack = -(-key_size // 8) * 8
    zero = [_instruction(0x7A, _FRAME_POINTER, offset=-offset) for offset in range(8, stack + 8, 8)]

    def key_in(register: int) -> bytes:
        return _instruction(0xBF, register, _FRAME_POINTER) + _instruction(0x07, register, number=-stack)

    return b"".join(
        [
            *zero,
            _instruction(0xB7, 2, number=FLOW_BYTES.start),
            key_in(3),
            _instruction(0xB7, 4, number=FLOW_BYTES.stop - FLOW_BYTES.start),
            _instruction(0x85, number=_LOAD_BYTES),  # r1 still contains the pointer to the packet
            _instruction(0x18, 1, _MAP_FD, number=table) + bytes(8),
            key_in(2),
            _instruction(0x85, number=_LOOKUP),
            _instruction(0xB7, 0, number=-1),  # TC_ACT_UNSPEC
            _instruction(0x95),
        ]
    )


def bare(kind: str, key_size: int, value_size: int, room: int, packets: Bytes) -> Contender:
    """Returns the program with an LRU or HASH map of `room` entries. The map contains the flows of `packets` (IPv4)."""
    create = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_map_create
    fd = programs.check(
        int(create(_TYPES[kind], b"bare", key_size, value_size, room, None)), f"create a map of {room} entries"
    )
    padding, value = bytes(key_size - (FLOW_BYTES.stop - FLOW_BYTES.start)), bytes(value_size)
    for row in packets[:, FLOW_BYTES]:
        libbpf.map_update(fd, row.tobytes() + padding, value)
    program = programs.load("bare", _program(fd, key_size))
    os.close(fd)  # the program holds a reference to the map
    return Contender(kind, dict.fromkeys(programs.HOOKS, program))
