# SPDX-License-Identifier: Apache-2.0
"""The programs that are compared: one that does nothing, ours, and any others that are loaded."""

import ctypes
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf
from otel_epping.kernel.collector import EppingCollector

HOOKS = {"ingress": libbpf.BPF_TCX_INGRESS, "egress": libbpf.BPF_TCX_EGRESS}
NULL, OURS = "null", "otel-epping"

_SCHED_CLS = 3  # enum bpf_prog_type, linux/bpf.h
# r0 = TC_ACT_UNSPEC (-1); exit
_NOTHING = bytes.fromhex("b7000000ffffffff 9500000000000000")
_STATS_RUN_TIME = 0  # enum bpf_stats_type
# struct bpf_prog_info and struct bpf_map_info of linux/bpf.h, as far as they are looked at
_PROG_INFO = np.dtype(
    {"names": ["maps", "map_ids"], "formats": [np.uint32, np.uint64], "offsets": [52, 56], "itemsize": 232}
)
_MAP_INFO = np.dtype({"names": ["name"], "formats": ["S16"], "offsets": [24], "itemsize": 88})

_library = ctypes.CDLL("libbpf.so.1", use_errno=True)


@dataclass(frozen=True)
class Contender:
    """A program, or a pair of them: descriptors by the hooks that they are for."""

    name: str
    hooks: dict[str, int]

    def close(self) -> None:
        """Lets go of it."""
        for fd in set(self.hooks.values()):
            os.close(fd)


def check(result: int, what: str) -> int:
    """What a call of libbpf returned. Raises EppingError if that is a failure."""
    if result < 0:
        raise EppingError(f"cannot {what} ({os.strerror(ctypes.get_errno())}): run as root")
    return result


def load(name: str, instructions: bytes) -> int:
    """The descriptor of a tc program made of raw instructions."""
    arguments = (_SCHED_CLS, name.encode(), b"GPL", instructions, len(instructions) // 8, None)
    return check(int(_library.bpf_prog_load(*arguments)), f"load the program {name}")


def null() -> Contender:
    """A program that does nothing, one for each hook."""
    return Contender(NULL, {hook: load(NULL, _NOTHING) for hook in HOOKS})


def ours(collector: EppingCollector, name: str = OURS) -> Contender:
    """Ours, as a collector has loaded it."""
    return Contender(name, {hook: collector.program.entry_points[f"epping_{hook}"] for hook in HOOKS})


def compared(mean_ns: Mapping[str, float]) -> Iterator[tuple[str, float, float | None, float | None]]:
    """For each program its name, what a packet takes in it, what of that is above the program that does nothing (NULL
    must be among them), and ours (OURS, too) as a share of the latter; None where a program would be compared with
    itself."""
    for name, gross_ns in mean_ns.items():
        net_ns = gross_ns - mean_ns[NULL]
        share = (mean_ns[OURS] - mean_ns[NULL]) / net_ns if name not in (NULL, OURS) else None
        yield name, gross_ns, net_ns if name != NULL else None, share


def beside(asked: Sequence[str]) -> list[Contender]:
    """Programs that are loaded already, by id or by name, in the order in which they were asked for.

    Two whose names differ in `ingress` and `egress` only are a pair. One whose name says neither is put on both hooks.
    Raises EppingError for what isn't there, and for a name that several have.
    """
    listed = subprocess.run(["bpftool", "-j", "prog", "list"], capture_output=True, text=True, check=True).stdout
    pairs: dict[str, dict[str, int]] = {}
    for wanted in asked:
        found = [entry for entry in json.loads(listed) if wanted in (str(entry["id"]), entry.get("name"))]
        if not found:
            raise EppingError(f"no program {wanted!r} is loaded: see bpftool prog list")
        if len(found) > 1:
            ids = ", ".join(str(entry["id"]) for entry in found)
            raise EppingError(f"several programs are called {wanted!r}: choose among the ids {ids}")
        fd = check(int(_library.bpf_prog_get_fd_by_id(found[0]["id"])), f"open the program {wanted}")
        name = str(found[0].get("name") or wanted)
        hooks = [hook for hook in HOOKS if hook in name] or list(HOOKS)
        pair = re.sub("_*(ingress|egress)", "", name) or name
        if pair in (NULL, OURS):
            pair = f"{pair} {found[0]['id']}"
        pairs.setdefault(pair, {}).update(dict.fromkeys(hooks, fd))
    return [Contender(name, hooks) for name, hooks in pairs.items()]


@contextmanager
def attached(contenders: Sequence[Contender], ifindex: int) -> Iterator[None]:
    """Has programs on both hooks of an interface (of the namespace we are in), one after the other, in this order."""
    links: list[int] = []
    try:
        for contender in contenders:
            for hook, fd in contender.hooks.items():
                links.append(libbpf.link_create(fd, ifindex, HOOKS[hook]))
        yield
    finally:
        for link in links:
            os.close(link)


@contextmanager
def run_times() -> Iterator[None]:
    """Has the kernel take the time of all programs, as the sysctl kernel.bpf_stats_enabled does, until the body ends.

    The kernel ends it with our process, too.
    """
    fd = check(int(_library.bpf_enable_stats(_STATS_RUN_TIME)), "have the kernel take the time of programs")
    try:
        yield
    finally:
        os.close(fd)


def _info(fd: int, info: Any) -> None:
    size = ctypes.c_uint32(info.nbytes)
    check(int(_library.bpf_obj_get_info_by_fd(fd, ctypes.c_void_p(info.ctypes.data), ctypes.byref(size))), "ask")


def attached_program(ifindex: int, hook: str) -> int | None:
    """The id of the first program on a hook of an interface (of the namespace we are in), if there is one."""
    ids, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
    check(_library.bpf_prog_query(ifindex, HOOKS[hook], 0, None, ids, ctypes.byref(count)), "ask for programs")
    return ids[0] if count.value else None


def maps_of(program_id: int) -> dict[str, int]:
    """Descriptors of the maps of a program, by the first 15 letters of their names."""
    fd = check(int(_library.bpf_prog_get_fd_by_id(program_id)), f"open the program {program_id}")
    ids = np.zeros(64, np.uint32)
    program = np.zeros(1, _PROG_INFO)
    program["maps"], program["map_ids"] = len(ids), ids.ctypes.data
    _info(fd, program)
    os.close(fd)
    maps = {}
    for id in ids[: program["maps"][0]].tolist():
        fd = check(int(_library.bpf_map_get_fd_by_id(id)), f"open the map {id}")
        entry = np.zeros(1, _MAP_INFO)
        _info(fd, entry)
        maps[entry["name"][0].decode()] = fd
    return maps
