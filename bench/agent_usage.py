# SPDX-License-Identifier: Apache-2.0
"""CPU share and memory of `otel-epping run`, which exports over gRPC every 10 s to a receiver on the same machine.

Two agents are measured, one after the other: an agent with the default settings, and an agent that exports all metrics
of all subnets. The goals apply to the default settings.

Once per export interval, each subnet receives a segment and replies with a segment. The segments and replies are real
packets that pass through the agent's interface (active_subnets.py). So each subnet has new packet counts and new RTTs
in each interval. The histograms contain as many RTTs as they would contain after a day of traffic (fill_maps.py). The
first interval is not measured, because the agent creates the state of the subnets in this interval. The CPU time is the
user and system time that the kernel charges to the agent's process during several intervals. The CPU time does not
include the time of the BPF program, which kernel.py and live_traffic.py measure. The memory is the agent's resident
memory after the last interval.
"""

import time
from typing import NamedTuple

from bench import active_subnets
from bench.active_subnets import SubnetTraffic
from bench.agent_process import EVERYTHING, AgentProcess
from bench.blackhole import blackhole
from bench.fill_maps import Maps
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from bench.veth_pair import VethPair
from otel_epping.kernel.config import EppingConfig

_SIZES = (1_000, 10_000)
_INTERVAL_S, _INTERVALS = 10.0, 3
_START_S = 30.0


class _Settings(NamedTuple):
    """The settings of a measured agent. The names of the agent's figures contain `suffix`."""

    name: str
    suffix: str
    options: tuple[str, ...]


_SETTINGS = (
    _Settings("defaults", "", ()),
    _Settings(" ".join(EVERYTHING), "_everything", EVERYTHING),
)


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures each agent with 0, 1,000 and 10,000 active subnets. Other programs are not measured."""
    sizes, interval_s, intervals = ((50,), 0.5, 1) if tiny else (_SIZES, _INTERVAL_S, _INTERVALS)
    columns = [
        Heading("settings"),
        Heading("active subnets", ",d"),
        Heading("user, % of a core", ".2f"),
        Heading("system", ".2f"),
    ]
    columns += [Heading("total", ".2f"), Heading("resident MB", ".1f"), Heading("peak MB", ".1f")]
    table = Table(
        f"CPU and memory of the agent, export every {interval_s:g} s",
        [*columns, Heading("bytes per export", ",d")],
    )
    layouts = active_subnets.map_layouts(EppingConfig())
    figures: dict[str, float] = {}
    for settings in _SETTINGS:
        figures |= _measure(settings, layouts, table, sizes, interval_s, intervals)
    return Result([table], figures)


def _measure(
    settings: _Settings, layouts: Maps, table: Table, sizes: tuple[int, ...], interval_s: float, intervals: int
) -> dict[str, float]:
    """Measures one agent. Adds a row to the table for each number of subnets. Returns the figures."""
    figures: dict[str, float] = {}
    with (
        VethPair() as veth,
        blackhole(veth.near) as receiver,
        AgentProcess(veth, receiver.endpoint, "--interval", f"{interval_s}s", *settings.options) as agent,
    ):
        traffic = SubnetTraffic(veth)
        progress(f"agent_usage: {settings.name}: idle")
        agent.wait_until(agent.program, _START_S, "it is attached to both hooks")
        agent.next_export(receiver, interval_s)
        table.add(settings.name, 0, None, None, None, agent.memory_mb(), agent.memory_mb("VmHWM"), None)
        for subnets in sizes:
            progress(f"agent_usage: {settings.name}: {subnets:,} subnets")
            active_subnets.activate(agent, traffic, subnets, layouts, EppingConfig.scale)
            agent.next_export(receiver, interval_s)
            before, began = agent.cpu_s(), time.monotonic()
            sent = 0
            for _ in range(intervals):
                traffic.send(subnets - 1)
                sent += agent.next_export(receiver, interval_s)
            took = time.monotonic() - began
            user, system = (100 * (now - then) / took for now, then in zip(agent.cpu_s(), before, strict=True))
            memory_mb, peak_mb = agent.memory_mb(), agent.memory_mb("VmHWM")
            table.add(settings.name, subnets, user, system, user + system, memory_mb, peak_mb, sent // intervals)
            figures |= {
                f"agent_usage.{subnets}{settings.suffix}_percent": user + system,
                f"agent_usage.{subnets}{settings.suffix}_mb": memory_mb,
            }
        agent.stop()
    return figures
