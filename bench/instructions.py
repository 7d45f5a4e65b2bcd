# SPDX-License-Identifier: Apache-2.0
"""How many instructions a packet takes: the program is executed by simulator.py, the same whatever the machine does.

Packets of one flow, the last of eight, and the mean of mixed packets of 50 flows to 10 subnets. To compare two versions
of the program, run this in a checkout of each, with the same compiler. The time of an instruction isn't in it, nor that
of a cache miss: `amid` and `kernel` measure these.
"""

import json
import subprocess
import sys

import numpy as np

from bench.mixed import Mixed
from bench.packets import ACK, ACK_BARE, DATA, DATA_BARE, ECHO, PAYLOAD, UDP, Fields, put, rows_of
from bench.programs import HOOKS, Contender
from bench.report import Column, Result, Table, progress
from bench.simulator import Simulator
from bench.simulator import Table as Map
from otel_epping.kernel import loader
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError

_FORMS = (DATA, ACK, DATA_BARE, ACK_BARE, UDP, ECHO)
_REPEATED = 8
_FLOWS, _SUBNETS, _MIXED = 50, 10, 2_000
# A TSval of mixed packets lasts 120 ms: one that lasts longer stands still (bpf/tcp_method_choice.h).
_APART_NS = 100_000
# struct interface of bpf/maps.h: index 1, an Ethernet header, number 1, identifier 1, sides.
_INTERFACE = bytes.fromhex("01000000 0e00 0100 0100 0000 0100 0000")

# Compiles in the Python that has BCC, as the loader does, and prints programs and maps.
_COMPILE = """
import json, os, sys
from pathlib import Path
from otel_epping.kernel import loader_child as child

source = Path(sys.argv[1])
os.environ["BCC_KERNEL_SOURCE"] = str(source / "stubs")
bcc, _ = child.find_bcc()
own = {name: getattr(child.bytecode, name) for name in ("DIRECTION", "DIRECT", "COLD")}
text = child.with_places(child.flatten(source, "epping.bpf.c", set()))
module = child.compile_source(bcc, text, json.loads(sys.argv[2]) | own, "-g0")
code, fds = child.bytecode.arranged(child.compiled(bcc, module)), child.addresses_of(module)
programs = {name: child.bytecode.linked(code, value, fds).hex() for name, value in child.PROGRAMS.items()}
maps, _ = child.describe_maps(bcc, module)
sizes = [getattr(bcc.lib, f"bpf_table_{what}_id") for what in ("type", "key_size", "leaf_size", "max_entries")]
tables = {module[entry["name"]].map_fd: [size(module.module, i) for size in sizes] for i, entry in enumerate(maps)}
names = {entry["name"]: module[entry["name"]].map_fd for entry in maps}
print(json.dumps({"programs": programs, "tables": tables, "names": names}))
"""


def compiled() -> Simulator:
    """The program, compiled with its defaults and not loaded. Raises EppingError if it cannot be compiled."""
    command = [loader.SYSTEM_PYTHON, "-c", _COMPILE, str(loader.source_folder()), json.dumps(KernelConfig().defines())]
    path = str(loader.source_folder().parent)
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path}, check=False)
    if done.returncode:
        raise EppingError("cannot compile the program: see otel-epping check", done.stderr)
    made = json.loads(done.stdout)
    tables = {int(fd): Map(*sizes) for fd, sizes in made["tables"].items()}
    programs = {name.removeprefix("epping_"): bytes.fromhex(code) for name, code in made["programs"].items()}
    simulator = Simulator(programs, tables)
    simulator.write(tables[made["names"]["interfaces"]].base + len(_INTERFACE), _INTERFACE)
    simulator.write(tables[made["names"]["control"]].base, (1).to_bytes(4, sys.byteorder))  # the first epoch
    return simulator


def _run(simulator: Simulator, hook: str, frame: bytes) -> int:
    simulator.now_ns += _APART_NS
    return simulator.run(hook, frame)


def _continued(form: str, hook: str, family: int) -> list[bytes]:
    """Packets of one flow: each segment with data continues the one before, each acknowledgement is of one more."""
    rows = rows_of(form, np.zeros(_REPEATED, np.int64), _SUBNETS, hook == "egress", family)
    fields = Fields.of(family)
    if form in (DATA, DATA_BARE):
        put(rows, fields.sequence, 1 + PAYLOAD * np.arange(_REPEATED))
    elif form in (ACK, ACK_BARE):
        put(rows, fields.acknowledgement, 1 + PAYLOAD * np.arange(_REPEATED))
    return [row.tobytes() for row in rows]


def run(others: list[Contender], tiny: bool = False) -> Result:
    """All forms, both ways, both versions of IP, and mixed packets. Other programs are not measured."""
    table = Table("Instructions of a packet", [Column("packets"), *(Column(hook, ",.0f") for hook in (*HOOKS, "both"))])
    simulator = compiled()
    for form in _FORMS:
        for family in (4, 6):
            progress(f"instructions: {form}, IPv{family}")
            counts = []
            for hook in HOOKS:
                frames = _continued(form, hook, family)
                counts.append(float([_run(simulator, hook, frame) for frame in frames][-1]))
            table.add(f"{form}, IPv{family}", *counts, None)
    progress("instructions: mixed")
    mixed = Mixed(_FLOWS, _SUBNETS).any(100 if tiny else _MIXED)
    frames = [row[:size].tobytes() for row, size in zip(mixed.rows, mixed.sizes, strict=True)]
    hooks = ["egress" if out else "ingress" for out in mixed.egress.tolist()]
    taken = [_run(simulator, hook, frame) for hook, frame in zip(hooks, frames, strict=True)]
    mean = float(np.mean(taken[len(taken) // 2 :]))  # in the first half, flows and subnets are new
    table.add("mixed", None, None, mean)
    return Result([table], {"instructions.mixed": mean})
