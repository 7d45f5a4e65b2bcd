# SPDX-License-Identifier: Apache-2.0
"""Measures the time from the command `otel-epping run` to the first counted packet. A packet is sent every 2 ms.

A packet has been counted when the program's interface counters are not 0. The start of the agent is divided into these
parts, which are measured from outside the agent:

    imports    ends when the loader process exists
    compile    ends when the loader process ends, but excludes the time of the verifier. The loader imports BCC and
               LLVM and compiles the program.
    verify     is the time of the kernel's verifier. The loader measures this time when it loads the program once before
               the starts.
    attach     ends when the program is on both hooks. In this part, the agent fills tables and creates the exporters.
    packet     ends when the next packet is counted

The figures are medians of several starts. All files of the agent are in the page cache.
"""

import statistics
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import fill_maps
from bench.active_subnets import SubnetTraffic
from bench.agent_process import EVERYTHING, AgentProcess
from bench.blackhole import blackhole
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from bench.veth_pair import VethPair
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.program import Map

_STARTS = 7
_EVERY_S = 0.002
_TIMEOUT_S = 60.0
_COUNTERS = "interface_counters"
_PARTS = ("imports", "compile", "verify", "attach", "packet")


class _Watch:
    """Records the times at which the steps of a start become visible. Sends a packet on each call."""

    def __init__(self, agent: AgentProcess, veth: VethPair, like: Map) -> None:
        self._agent, self._traffic, self._like = agent, SubnetTraffic(veth), like
        self._threads = Path(f"/proc/{agent.process.pid}/task")
        # The row number of an interface is the interface index, or one of the next few numbers (bpf/maps.h).
        self._rows = (veth.ifindex + 8) * possible_cpus()
        self._counters: fill_maps.MapValues | None = None
        self.seen_s: dict[str, float] = {}

    def _note(self, what: str) -> None:
        self.seen_s.setdefault(what, time.monotonic() - self._agent.started_s)

    def __call__(self) -> bool:
        """Sends a packet, and records the steps that have become visible. Returns true if a packet has been counted."""
        self._traffic.send(1)
        has_children = False
        with suppress(OSError):  # a thread may end after glob() has listed it
            has_children = any(children.read_text() for children in self._threads.glob("*/children"))
        if has_children:
            # The child process that has ended was not the loader: it only tested a limit
            # (requirements.check_threads()).
            if self.seen_s.pop("loaded", None):
                del self.seen_s["loader"]
            self._note("loader")
        elif "loader" in self.seen_s:
            self._note("loaded")
        if self._counters is None and self._agent.program():
            self._note("attached")
            fd = self._agent.maps()[_COUNTERS[:15]]
            self._counters = fill_maps.records(replace(self._like, fd=fd), self._rows)
        if self._counters is not None and self._counters.view(np.uint64).any():
            self._note("counted")
        return "counted" in self.seen_s


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all starts. Other programs are not measured."""
    parts: dict[str, list[float]] = {part: [] for part in _PARTS}
    whole = []
    with VethPair() as veth, blackhole(veth.near) as receiver, EppingCollector() as collector:
        verify_s = collector.program.verifier_s
        for number in range(1 if tiny else _STARTS):
            progress(f"start: run number {number + 1}")
            with AgentProcess(veth, receiver.endpoint, *EVERYTHING) as agent:
                watch = _Watch(agent, veth, collector.program.maps[_COUNTERS])
                agent.wait_until(watch, _TIMEOUT_S, "it has counted a packet", _EVERY_S)
            loader_s, loaded_s, attached_s, counted_s = (
                watch.seen_s[name] for name in ("loader", "loaded", "attached", "counted")
            )
            compile_s = loaded_s - loader_s - verify_s
            took = (loader_s, compile_s, verify_s, attached_s - loaded_s, counted_s - attached_s)
            for part, seconds in zip(_PARTS, took, strict=True):
                parts[part].append(seconds)
            whole.append(counted_s)
    table = Table(
        "From the command to the first counted packet",
        [Heading("part"), Heading("s", ".3f"), Heading("range")],
    )
    for part, times in (parts | {"total": whole}).items():
        table.add(part, statistics.median(times), f"{min(times):.3f} .. {max(times):.3f}")
    return Result([table], {"start.seconds": statistics.median(whole)})
