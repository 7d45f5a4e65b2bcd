# SPDX-License-Identifier: Apache-2.0
"""From the command `otel-epping run` to the first packet that counts, while packets go by every 2 ms.

A packet counts when the program's interface counters aren't zero any more. The parts are what can be seen from outside:

    imports    until the loader, its child, is there
    compile    until the loader is gone, less the verifier: BCC and LLVM are imported, the program is compiled
    verify     the kernel's verifier, as the loader takes its time; of a run just before
    attach     until the program is on both hooks: tables are filled, exporters set up
    packet     until the next one is counted

Medians of several starts. All files are in the page cache.
"""

import statistics
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from bench import filled
from bench.agents import Agent
from bench.blackhole import blackhole
from bench.crowd import Crowd
from bench.hosts import Hosts
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.program import Map

_STARTS = 7
_EVERY_S = 0.002
_MOST_S = 60.0
_COUNTERS = "interface_counters"
_PARTS = ("imports", "compile", "verify", "attach", "packet")


class _Watch:
    """Notes when what happens at a start is seen for the first time; sends a packet each time that it looks."""

    def __init__(self, agent: Agent, hosts: Hosts, like: Map) -> None:
        self._agent, self._crowd, self._like = agent, Crowd(hosts), like
        self._threads = Path(f"/proc/{agent.process.pid}/task")
        # That of an interface is by its index, or a few behind it: bpf/maps.h.
        self._rows = (hosts.ifindex + 8) * possible_cpus()
        self._counters: filled.Records | None = None
        self.seen_s: dict[str, float] = {}

    def _note(self, what: str) -> None:
        self.seen_s.setdefault(what, time.monotonic() - self._agent.started_s)

    def __call__(self) -> bool:
        """Whether a packet was counted."""
        self._crowd.speak(1)
        has_children = False
        with suppress(OSError):  # of a thread that ends meanwhile
            has_children = any(children.read_text() for children in self._threads.glob("*/children"))
        if has_children:
            self._note("loader")
        elif "loader" in self.seen_s:
            self._note("loaded")
        if self._counters is None and self._agent.program():
            self._note("attached")
            fd = self._agent.maps()[_COUNTERS[:15]]
            self._counters = filled.records(replace(self._like, fd=fd), self._rows)
        if self._counters is not None and self._counters.view(np.uint64).any():
            self._note("counted")
        return "counted" in self.seen_s


def run(others: list[Contender], tiny: bool = False) -> Result:
    """All starts. Nobody is beside."""
    parts: dict[str, list[float]] = {part: [] for part in _PARTS}
    whole = []
    with Hosts() as hosts, blackhole(hosts.near) as receiver, EppingCollector() as collector:
        verify_s = collector.program.verifier_s
        for number in range(1 if tiny else _STARTS):
            progress(f"start: number {number + 1}")
            with Agent(hosts, receiver.endpoint) as agent:
                watch = _Watch(agent, hosts, collector.program.maps[_COUNTERS])
                agent.wait_until(watch, _MOST_S, "a packet is counted", _EVERY_S)
            loader_s, loaded_s, attached_s, counted_s = (
                watch.seen_s[name] for name in ("loader", "loaded", "attached", "counted")
            )
            compile_s = loaded_s - loader_s - verify_s
            took = (loader_s, compile_s, verify_s, attached_s - loaded_s, counted_s - attached_s)
            for part, seconds in zip(_PARTS, took, strict=True):
                parts[part].append(seconds)
            whole.append(counted_s)
    table = Table("From the command to the first packet that counts", [Column("part"), Column("s", ".3f"), Column("")])
    for part, times in (parts | {"all": whole}).items():
        table.add(part, statistics.median(times), f"{min(times):.3f} .. {max(times):.3f}")
    return Result([table], {"start.seconds": statistics.median(whole)})
