# SPDX-License-Identifier: Apache-2.0
"""The BPF programs that the benchmarks compare: a program that does nothing, our program, and other loaded programs."""

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
# The fields of struct bpf_prog_info and struct bpf_map_info (linux/bpf.h) that this module reads.
_PROG_INFO = np.dtype(
    {"names": ["maps", "map_ids"], "formats": [np.uint32, np.uint64], "offsets": [52, 56], "itemsize": 232}
)
_MAP_INFO = np.dtype({"names": ["name"], "formats": ["S16"], "offsets": [24], "itemsize": 88})

_library = ctypes.CDLL("libbpf.so.1", use_errno=True)


@dataclass(frozen=True)
class Contender:
    """A measured program, or a pair of programs with one program for each hook.

    `hooks` contains the descriptor for each hook.
    """

    name: str
    hooks: dict[str, int]

    def close(self) -> None:
        """Closes the descriptors of the programs."""
        for fd in set(self.hooks.values()):
            os.close(fd)


def check(result: int, what: str) -> int:
    """Returns the result of a libbpf call. Raises EppingError if the call failed."""
    if result < 0:
        raise EppingError(f"cannot {what} ({os.strerror(ctypes.get_errno())}): run as root")
    return result


def load(name: str, instructions: bytes) -> int:
    """Loads raw instructions as a tc program. Returns the descriptor of the program."""
    arguments = (_SCHED_CLS, name.encode(), b"GPL", instructions, len(instructions) // 8, None)
    return check(int(_library.bpf_prog_load(*arguments)), f"load the program {name}")


def null() -> Contender:
    """Returns a program that does nothing, for both hooks."""
    return Contender(NULL, {hook: load(NULL, _NOTHING) for hook in HOOKS})


def ours(collector: EppingCollector, name: str = OURS) -> Contender:
    """Returns our program, which `collector` has loaded."""
    return Contender(name, {hook: collector.program.entry_points[f"epping_{hook}"] for hook in HOOKS})


def compared(mean_ns: Mapping[str, float]) -> Iterator[tuple[str, float, float | None, float | None]]:
    """Yields four values per program: name, gross ns per packet, net ns, and our net ns divided by the program's net
    ns.

    Net ns is the time of a program minus the time of NULL. `mean_ns` must contain NULL and OURS. A value that would
    compare a program with itself is None.
    """
    for name, gross_ns in mean_ns.items():
        net_ns = gross_ns - mean_ns[NULL]
        share = (mean_ns[OURS] - mean_ns[NULL]) / net_ns if name not in (NULL, OURS) else None
        yield name, gross_ns, net_ns if name != NULL else None, share


def loaded(asked: Sequence[str]) -> list[Contender]:
    """Returns programs that are already loaded, in the order of `asked`, which contains their ids or names.

    Two programs form a pair if their names differ only in the words `ingress` and `egress`. If the name of a program
    contains neither `ingress` nor `egress`, the program is used on both hooks. Raises EppingError if a program is not
    loaded, or if several loaded programs have a name in `asked`.
    """
    listed = subprocess.run(["bpftool", "-j", "prog", "list"], capture_output=True, text=True, check=True).stdout
    pairs: dict[str, dict[str, int]] = {}
    for wanted in asked:
        found = [entry for entry in json.loads(listed) if wanted in (str(entry["id"]), entry.get("name"))]
        if not found:
            raise EppingError(f"no program {wanted!r} is loaded: see bpftool prog list")
        if len(found) > 1:
            ids = ", ".join(str(entry["id"]) for entry in found)
            raise EppingError(f"several programs are named {wanted!r}: give one of the ids {ids}")
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
    """Attaches programs to an interface, in the given order, while the body of the `with` statement runs."""
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
    """Enables the kernel's run-time statistics of all BPF programs until the body of the `with` statement or our
    process ends.

    The sysctl kernel.bpf_stats_enabled enables the same statistics.
    """
    fd = check(int(_library.bpf_enable_stats(_STATS_RUN_TIME)), "enable the run-time statistics of BPF programs")
    try:
        yield
    finally:
        os.close(fd)


def _info(fd: int, info: Any) -> None:
    size = ctypes.c_uint32(info.nbytes)
    check(
        int(_library.bpf_obj_get_info_by_fd(fd, ctypes.c_void_p(info.ctypes.data), ctypes.byref(size))),
        "read the properties of a program or map",
    )


def attached_program(ifindex: int, hook: str) -> int | None:
    """Returns the id of the first program on a hook of an interface. Returns None if the hook has no program.

    The interface must be in the current network namespace.
    """
    ids, count = (ctypes.c_uint32 * 64)(), ctypes.c_uint32(64)
    check(
        _library.bpf_prog_query(ifindex, HOOKS[hook], 0, None, ids, ctypes.byref(count)), "query the programs of a hook"
    )
    return ids[0] if count.value else None


def maps_of(program_id: int) -> dict[str, int]:
    """Returns the descriptors of a program's maps. The keys are the first 15 characters of the map names."""
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
