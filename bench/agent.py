# SPDX-License-Identifier: Apache-2.0
"""The agent in service: `otel-epping run`, every 10 s to a receiver on the same machine, gRPC.

Once an interval, each subnet gets a segment and answers it: real packets through the interface (crowd.py). So each has
something to tell in each interval, round-trip times too, and its histogram has the shape of a day before (filled.py).
CPU time is the agent's own, as the kernel accounts it, user and system, over several intervals, after one in which the
subnets were new; what the packets themselves cost is in kernel.py and live.py. Memory is what is resident after them.
"""

import time

from bench import crowd
from bench.agents import Agent
from bench.blackhole import blackhole
from bench.crowd import Crowd
from bench.hosts import Hosts
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from otel_epping.kernel.config import EppingConfig

_SIZES = (1_000, 10_000)
_INTERVAL_S, _INTERVALS = 10.0, 3
_START_S = 30.0


def run(others: list[Contender], tiny: bool = False) -> Result:
    """One agent, idle, with a thousand subnets, and with ten thousand. Nobody is beside."""
    sizes, interval_s, intervals = ((50,), 0.5, 1) if tiny else (_SIZES, _INTERVAL_S, _INTERVALS)
    columns = [Column("active subnets", ",d"), Column("user, % of a core", ".2f"), Column("system", ".2f")]
    columns += [Column("both", ".2f"), Column("resident MB", ".1f"), Column("peak MB", ".1f")]
    table = Table(f"The agent, every {interval_s:g} s", [*columns, Column("bytes an export", ",d")])
    figures: dict[str, float] = {}
    layouts = crowd.layouts(EppingConfig())
    with (
        Hosts() as hosts,
        blackhole(hosts.near) as receiver,
        Agent(hosts, receiver.endpoint, "--interval", f"{interval_s}s") as agent,
    ):
        people = Crowd(hosts)
        progress("agent: idle")
        agent.wait_until(agent.program, _START_S, "it watches")
        agent.next_export(receiver, interval_s)
        table.add(0, None, None, None, agent.memory_mb(), agent.memory_mb("VmHWM"), None)
        for subnets in sizes:
            progress(f"agent: {subnets:,} subnets")
            crowd.settle(agent, people, subnets, layouts, EppingConfig.scale)
            agent.next_export(receiver, interval_s)
            before, began = agent.cpu_s(), time.monotonic()
            sent = 0
            for _ in range(intervals):
                people.speak(subnets - 1)
                sent += agent.next_export(receiver, interval_s)
            took = time.monotonic() - began
            user, system = (100 * (now - then) / took for now, then in zip(agent.cpu_s(), before, strict=True))
            memory_mb = agent.memory_mb()
            table.add(subnets, user, system, user + system, memory_mb, agent.memory_mb("VmHWM"), sent // intervals)
            figures |= {f"agent.{subnets}_percent": user + system, f"agent.{subnets}_mb": memory_mb}
        agent.stop()
    return Result([table], figures)
