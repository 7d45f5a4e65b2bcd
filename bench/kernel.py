# SPDX-License-Identifier: Apache-2.0
"""What the kernel program costs a packet: `python -m bench.kernel [--beside NAME] [--json FILE]`.

Each mix of packets goes by BPF_PROG_TEST_RUN through a program that does nothing, through ours with all methods, and
through any other that is loaded (given by id or name: ePPing's, say), in turns, several times. The kernel takes the
time of the runs alone. A flow's packets are alike, so none begins or ends an RTT, as most packets do in real traffic.

Net is what is above the program that does nothing. One flow finds all in the CPU's caches; many don't.
"""

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench.packets import MIXES, Frames, Mix, frames
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.replayer import CAPTURE, Runs

_SCHED_CLS = 3  # enum bpf_prog_type, linux/bpf.h
# r0 = TC_ACT_UNSPEC (-1); exit
_NOTHING = bytes.fromhex("b7000000ffffffff 9500000000000000")
_ROUNDS = 7
_REPEAT_ONE_FLOW = 200_000
_REPEAT = 1

NULL, OURS = "null", "otel-epping"


def null_program() -> int:
    """The descriptor of a program that does nothing."""
    fd: int = ctypes.CDLL("libbpf.so.1").bpf_prog_load(_SCHED_CLS, b"null", b"GPL", _NOTHING, 2, None)
    if fd < 0:
        raise EppingError("the kernel refuses a program that does nothing: run as root")
    return fd


def loaded_program(name: str) -> int:
    """The descriptor of a program that is loaded already, by its id or its name. Raises EppingError for none."""
    listed = subprocess.run(["bpftool", "-j", "prog", "list"], capture_output=True, text=True, check=True).stdout
    ids = {entry["id"] for entry in json.loads(listed) if name in (str(entry["id"]), entry.get("name"))}
    if not ids:
        raise EppingError(f"no program {name!r} is loaded: see bpftool prog list")
    fd: int = ctypes.CDLL("libbpf.so.1").bpf_prog_get_fd_by_id(min(ids))
    return fd


class Subject:
    """A program, and the packets of a mix, ready to run."""

    def __init__(self, fd: int, packets: Frames) -> None:
        self._rows, size = packets.shape
        self._packets = packets  # kept: the kernel reads from there
        self._runs = Runs(fd, self._rows)
        self._runs.options["data_in"] = packets.ctypes.data + size * np.arange(self._rows)
        self._runs.options["data_size_in"] = size
        self._runs.options["repeat"] = _REPEAT_ONE_FLOW if self._rows == 1 else _REPEAT
        self._runs.contexts["wire_len"] = size

    def run(self) -> float:
        """Mean ns of a run, of all packets once."""
        self._runs.options["data_size_out"] = 0
        self._runs.run(self._rows)
        return float(self._runs.options["duration"].mean())


def measure(programs: dict[str, int], mix: Mix) -> dict[str, float]:
    """Median over rounds of the mean ns a packet, for each program; in turns, and a first round that does not count."""
    subjects = {name: Subject(fd, frames(mix)) for name, fd in programs.items()}
    taken: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(_ROUNDS + 1):
        for name, subject in subjects.items():
            mean_ns = subject.run()
            if number:
                taken[name].append(mean_ns)
    return {name: statistics.median(times) for name, times in taken.items()}


def line(mix: Mix, gross_ns: dict[str, float]) -> str:
    """A row of the table: gross, net of each program, and our net as a share of the others'."""
    net = {name: gross_ns[name] - gross_ns[NULL] for name in gross_ns if name != NULL}
    cells = [f"{gross_ns[name]:7.0f} {net[name]:7.0f}" for name in net]
    ratios = [f"{net[OURS] / net[name]:6.2f}" for name in net if name != OURS]
    return f"{mix.form:24} {mix.flows:>7,} {mix.subnets:>8,} {gross_ns[NULL]:6.0f}  " + "  ".join(cells + ratios)


def main() -> None:
    """Measures all mixes, and prints as it goes."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernel", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beside", action="append", default=[], help="id or name of a loaded program; several times")
    parser.add_argument("--json", type=Path, help="also write the results there")
    arguments = parser.parse_args()
    results = []
    try:
        with Collector(KernelConfig()) as collector:
            collector.attachments.register(CAPTURE)
            programs = {NULL: null_program(), OURS: collector.program.entry_points["epping_egress"]}
            programs |= {name: loaded_program(name) for name in arguments.beside}
            names = [name for name in programs if name != NULL]
            heads = [f"{name[:15]:>15}" for name in names] + [f"/{name[:5]}" for name in names if name != OURS]
            print(f"{'ns a packet':24} {'flows':>7} {'subnets':>8} {'null':>6}  " + "  ".join(heads))
            print(f"{'':48}  " + "  ".join("  gross     net" for _ in names))
            for mix in MIXES:
                gross_ns = measure(programs, mix)
                print(line(mix, gross_ns), flush=True)
                results.append({"form": mix.form, "flows": mix.flows, "subnets": mix.subnets, "gross_ns": gross_ns})
    except EppingError as error:
        sys.exit(f"bench.kernel: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
