# SPDX-License-Identifier: Apache-2.0
"""Small programs for the hooks of an interface. The programs imitate programs that other software attaches. The
programs are written in BPF instructions.

A program ends with a verdict. After the verdict TCX_NEXT, the next program on the hook runs, too.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from otel_epping.kernel import libbpf

# linux/bpf.h
BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_XDP = 3, 6
BPF_F_AFTER = 1 << 4
BPF_FUNC_SKB_STORE_BYTES, BPF_FUNC_SKB_VLAN_PUSH, BPF_FUNC_SKB_CHANGE_HEAD = 9, 18, 43
HOOKS = libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS
TCX_NEXT = -1
# linux/pkt_cls.h: TC_ACT_UNSPEC is TCX_NEXT
VERDICTS = {
    "UNSPEC": -1, "OK": 0, "RECLASSIFY": 1, "SHOT": 2, "PIPE": 3, "STOLEN": 4, "QUEUED": 5, "REPEAT": 6, "REDIRECT": 7,
    "TRAP": 8,
}  # fmt: skip
XDP_DROP, XDP_PASS = 1, 2

CONTEXT, STACK = 6, 10


def copy(to: int, register: int) -> bytes:
    """to = register, as one instruction"""
    return struct.pack("=BBhi", 0xBF, register << 4 | to, 0, 0)


def set_to(register: int, value: int) -> bytes:
    """register = value, as one instruction"""
    return struct.pack("=BBhi", 0xB7, register, 0, value)


def call(helper: int, *arguments: int | bytes) -> bytes:
    """Return instructions that call a BPF helper for the packet. Numbers are passed as values. Bytes (a multiple of 4)
    are written to the stack, and their address is passed."""
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


def load(calls: Sequence[bytes] = (), verdict: int = TCX_NEXT, kind: int = BPF_PROG_TYPE_SCHED_CLS) -> int:
    """Load a program that runs the instructions in `calls` and returns a verdict. Return its file descriptor."""
    code = b"".join([copy(CONTEXT, 1), *calls, set_to(0, verdict), struct.pack("=BBhi", 0x95, 0, 0, 0)])
    library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    arguments = kind, b"neighbour", b"GPL", code, ctypes.c_size_t(len(code) // 8), None
    program = int(library.bpf_prog_load(*arguments))
    assert program >= 0, os.strerror(ctypes.get_errno())
    return program


@contextmanager
def loaded(verdict: int, kind: int = BPF_PROG_TYPE_SCHED_CLS) -> Iterator[int]:
    """Load a program that returns a verdict. Close its file descriptor at the end of the `with` block."""
    program = load(verdict=verdict, kind=kind)
    try:
        yield program
    finally:
        os.close(program)


@contextmanager
def attached(
    name: str,
    calls: Sequence[bytes] = (),
    hooks: Sequence[int] = HOOKS,
    verdict: int = TCX_NEXT,
    place: int = libbpf.BPF_F_BEFORE,
) -> Iterator[None]:
    """Attach the program to hooks of an interface during the `with` block, before or after the other programs on these
    hooks.

    The interface must be in the network namespace of the calling thread.
    """
    with ExitStack() as stack:
        program = load(calls, verdict)
        stack.callback(os.close, program)
        for hook in hooks:
            stack.callback(os.close, libbpf.link_create(program, socket.if_nametoindex(name), hook, place))
        yield


@contextmanager
def xdp(name: str, program: int) -> Iterator[None]:
    """Attach an XDP program to an interface in generic mode during the `with` block.

    The interface must be in the network namespace of the calling thread.
    """
    attach = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_xdp_attach
    ifindex, generic = socket.if_nametoindex(name), 1 << 1  # XDP_FLAGS_SKB_MODE, linux/if_link.h
    assert attach(ifindex, program, generic, None) == 0
    try:
        yield
    finally:
        assert attach(ifindex, -1, generic, None) == 0


@contextmanager
def on_tcx(name: str, verdict: int, put: str) -> Iterator[None]:
    place = libbpf.BPF_F_BEFORE if put == "first" else BPF_F_AFTER
    with attached(name, verdict=verdict, place=place):
        yield


@contextmanager
def on_clsact(name: str, verdict: int, put: str) -> Iterator[None]:
    """Attach a filter during the `with` block. The filter is the first or the last one. The first filter has priority
    1, so no other filter can come before this filter."""
    ifindex = socket.if_nametoindex(name)
    with loaded(verdict) as program:
        libbpf.tc_create_qdisc(ifindex)
        handle, priority = program, 1 if put == "first" else 1000 + program
        for point in (libbpf.BPF_TC_INGRESS, libbpf.BPF_TC_EGRESS):
            libbpf.tc_attach(program, ifindex, point, handle, priority)
        try:
            yield
        finally:
            for point in (libbpf.BPF_TC_INGRESS, libbpf.BPF_TC_EGRESS):
                libbpf.tc_detach(ifindex, point, handle, priority)


# By kind of hook: a context manager that attaches a program with the given verdict, as the `first` or `last` program.
PUT = {"tcx": on_tcx, "clsact": on_clsact}
