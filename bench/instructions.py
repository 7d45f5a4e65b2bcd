# SPDX-License-Identifier: Apache-2.0
"""Counts the instructions that are executed for a packet. The result does not depend on the speed of the machine.

simulator.py executes the program. For one flow, the benchmark counts the instructions for the last of eight packets.
For mixed packets of 50 flows to 10 subnets, the benchmark reports the mean number of instructions per packet. To
compare two versions of the program, run this benchmark in a checkout of each version, with the same compiler. The
benchmark does not measure the time of instructions and cache misses. The benchmarks `cold_cache` and `kernel` measure
the time.
"""

import json
import subprocess
import sys

import numpy as np

from bench.packets import ACK, ACK_NO_TS, DATA, DATA_NO_TS, ECHO, PAYLOAD, UDP, Fields, put, rows_of
from bench.programs import HOOKS, Contender
from bench.report import Heading, Result, Table, progress
from bench.simulator import SimulatedMap, Simulator
from bench.traffic_model import TrafficModel
from otel_epping.errors import EppingError
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import loader

_FORMS = (DATA, ACK, DATA_NO_TS, ACK_NO_TS, UDP, ECHO)
_REPEATED = 8
_FLOWS, _SUBNETS, _MIXED = 50, 10, 2_000
# Time between two packets. If this time is 0.1 ms, the sender of the mixed packets uses each TSval for 120 ms. A TSval
# must change within 250 ms. Otherwise the program assumes that the sender's clock has stopped (STILL_NS in
# bpf/tcp_method_choice.h).
_APART_NS = 100_000
# The bytes of a struct interface (bpf/maps.h): index 1, length of an Ethernet header, number 1, identifier 1, sides.
_INTERFACE = bytes.fromhex("01000000 0e00 0100 0100 0000 0100 0000")

# Like the loader, this code runs in the Python interpreter that can import BCC. The code compiles the BPF programs, and
# prints the programs and maps as JSON.
_COMPILE = """
import json, os, sys
from pathlib import Path
from otel_epping.kernel.load import compiler as child

source = Path(sys.argv[1])
os.environ["BCC_KERNEL_SOURCE"] = str(source / "stubs")
bcc, _ = child.find_bcc()
text = child.with_line_directives(child.flatten(source, "epping.bpf.c", set()))
module = child.compile_source(bcc, text, json.loads(sys.argv[2]) | child.bytecode.PLACEHOLDERS, "-g0")
code, fds = child.bytecode.move_cold_blocks(child.compiled_code(bcc, module)), child.direct_map_fds(module)
programs = {name: child.bytecode.relocate(code, value, fds).hex() for name, value in child.PROGRAMS.items()}
maps, _ = child.describe_maps(bcc, module)
sizes = [getattr(bcc.lib, f"bpf_table_{what}_id") for what in ("type", "key_size", "leaf_size", "max_entries")]
tables = {module[entry["name"]].map_fd: [size(module.module, i) for size in sizes] for i, entry in enumerate(maps)}
names = {entry["name"]: module[entry["name"]].map_fd for entry in maps}
print(json.dumps({"programs": programs, "tables": tables, "names": names}))
"""


def compiled() -> Simulator:
    """Compiles the program with default settings, but does not load it. Raises EppingError if the compiler fails."""
    command = [loader.SYSTEM_PYTHON, "-c", _COMPILE, str(loader.source_folder()), json.dumps(EppingConfig().defines())]
    path = str(loader.source_folder().parent)
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": path}, check=False)
    if done.returncode:
        raise EppingError("cannot compile the program: run otel-epping check for the cause", done.stderr)
    made = json.loads(done.stdout)
    tables = {int(fd): SimulatedMap(*sizes) for fd, sizes in made["tables"].items()}
    programs = {name.removeprefix("epping_"): bytes.fromhex(code) for name, code in made["programs"].items()}
    simulator = Simulator(programs, tables)
    simulator.write(tables[made["names"]["interfaces"]].base + len(_INTERFACE), _INTERFACE)
    simulator.write(tables[made["names"]["control"]].base, (1).to_bytes(4, sys.byteorder))  # the first epoch
    return simulator


def _run(simulator: Simulator, hook: str, frame: bytes) -> int:
    simulator.now_ns += _APART_NS
    return simulator.run(hook, frame)


def _continued(form: str, hook: str, family: int) -> list[bytes]:
    """Returns packets of one flow: consecutive data segments, or ACKs of consecutive segments."""
    rows = rows_of(form, np.zeros(_REPEATED, np.int64), _SUBNETS, hook == "egress", family)
    fields = Fields.of(family)
    if form in (DATA, DATA_NO_TS):
        put(rows, fields.sequence, 1 + PAYLOAD * np.arange(_REPEATED))
    elif form in (ACK, ACK_NO_TS):
        put(rows, fields.acknowledgement, 1 + PAYLOAD * np.arange(_REPEATED))
    return [row.tobytes() for row in rows]


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all packet forms, directions and IP versions, and mixed packets. Other programs are not measured."""
    table = Table(
        "Instructions executed per packet",
        [Heading("packets"), *(Heading(hook, ",.0f") for hook in (*HOOKS, "both"))],
    )
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
    mixed = TrafficModel(_FLOWS, _SUBNETS).packets(100 if tiny else _MIXED)
    frames = [row[:size].tobytes() for row, size in zip(mixed.rows, mixed.sizes, strict=True)]
    hooks = ["egress" if out else "ingress" for out in mixed.egress.tolist()]
    taken = [_run(simulator, hook, frame) for hook, frame in zip(hooks, frames, strict=True)]
    mean = float(np.mean(taken[len(taken) // 2 :]))  # in the first half of the packets, most flows and subnets are new
    table.add("mixed", None, None, mean)
    return Result([table], {"instructions.mixed": mean})
