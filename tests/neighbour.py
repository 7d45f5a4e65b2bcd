# SPDX-License-Identifier: Apache-2.0
"""Small programs of others on the hooks of an interface, written in BPF instructions.

A program runs before those that come to the hook later, and ends with TCX_NEXT, so these run as well.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from otel_epping.kernel import libbpf

# linux/bpf.h
BPF_PROG_TYPE_SCHED_CLS = 3
BPF_FUNC_SKB_STORE_BYTES, BPF_FUNC_SKB_VLAN_PUSH, BPF_FUNC_SKB_CHANGE_HEAD = 9, 18, 43
HOOKS = libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS
TCX_NEXT = -1

CONTEXT, STACK = 6, 10


def copy(to: int, register: int) -> bytes:
    """to = register"""
    return struct.pack("=BBhi", 0xBF, register << 4 | to, 0, 0)


def set_to(register: int, value: int) -> bytes:
    """register = value"""
    return struct.pack("=BBhi", 0xB7, register, 0, value)


def call(helper: int, *arguments: int | bytes) -> bytes:
    """Calls a helper on the packet: numbers as they are, bytes (a multiple of 4) by their address on the stack."""
    code = b""
    for register, argument in enumerate(arguments, 2):
        if isinstance(argument, bytes):
            for offset in range(0, len(argument), 4):
                word = struct.unpack_from("=i", argument, offset)[0]
                code += struct.pack("=BBhi", 0x62, STACK, offset - len(argument), word)  # *(u32 *)(stack + ...) = word
            code += copy(register, STACK) + struct.pack("=BBhi", 0x07, register, 0, -len(argument))
        else:
            code += set_to(register, argument)
    return code + copy(1, CONTEXT) + struct.pack("=BBhi", 0x85, 0, 0, helper)


def load(calls: Sequence[bytes]) -> int:
    """Loads a program that makes these calls; its descriptor."""
    code = b"".join([copy(CONTEXT, 1), *calls, set_to(0, TCX_NEXT), struct.pack("=BBhi", 0x95, 0, 0, 0)])
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    arguments = BPF_PROG_TYPE_SCHED_CLS, b"neighbour", b"GPL", code, ctypes.c_size_t(len(code) // 8), None
    program = int(library.bpf_prog_load(*arguments))
    assert program >= 0, os.strerror(ctypes.get_errno())
    return program


@contextmanager
def attached(name: str, calls: Sequence[bytes], hooks: Sequence[int] = HOOKS) -> Iterator[None]:
    """The program on hooks of an interface of the calling thread's namespace, while the body runs."""
    with ExitStack() as stack:
        program = load(calls)
        stack.callback(os.close, program)
        for hook in hooks:
            stack.callback(os.close, libbpf.link_create(program, socket.if_nametoindex(name), hook))
        yield
