# SPDX-License-Identifier: Apache-2.0
"""A million subnets: 2^20 of them at scale 2, all with something to tell in one export, every 60 s.

`otel-epping check` is asked beforehand what that takes, and the real agent is held to it: the kernel's memory by its
own account, the agent's by its peak. Packets, receiver and histograms are as in agent.py.
"""

import re
import subprocess
import sys
import time

from bench import crowd
from bench.agents import Agent
from bench.blackhole import blackhole
from bench.crowd import Crowd
from bench.hosts import Hosts
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from otel_epping.errors import EppingError
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import map_info

_SUBNETS, _SCALE = 1 << 20, 2
_START_S, _INTERVAL_S, _TRIES = 60.0, 60.0, 3
_LEAST_BYTES = 500  # of a subnet in an export; it has three times as many
_MIB = 2**20
_ROUNDED_MIB = 0.05  # `check` prints tenths


def _checked(options: list[str]) -> dict[str, float]:
    """What `otel-epping check` says beforehand: "N MiB in the kernel", and "in the agent" if it says that."""
    command = [sys.executable, "-m", "otel_epping", "check", *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise EppingError(f"otel-epping check {' '.join(options)} failed", ran.stdout + ran.stderr)
    return {where: float(number) for number, where in re.findall(r"([\d.]+) MiB in the (kernel|agent)", ran.stdout)}


def run(others: list[Contender], tiny: bool = False) -> Result:
    """One start, one export. Nobody is beside."""
    subnets, interval_s = (1 << 10, 1.0) if tiny else (_SUBNETS, _INTERVAL_S)
    options = ["--max-subnets", str(subnets), "--scale", str(_SCALE)]
    progress("million: otel-epping check")
    promised = _checked(options)
    layouts = crowd.layouts(EppingConfig(max_subnets=subnets, scale=_SCALE))
    with (
        Hosts() as hosts,
        blackhole(hosts.near) as receiver,
        Agent(hosts, receiver.endpoint, "--interval", f"{interval_s}s", *options) as agent,
    ):
        progress("million: start")
        agent.wait_until(agent.program, _START_S, "it watches", 0.002)
        start_s, idle_mb = time.monotonic() - agent.started_s, agent.memory_mb()
        progress("million: packets")
        people = Crowd(hosts)
        crowd.settle(agent, people, subnets, layouts, _SCALE)
        kernel_mib = sum(map_info(fd)["memlock"] for fd in agent.maps().values()) / _MIB
        progress("million: export")
        # One may have begun before all packets were sent, and another be given up for it takes too long.
        for _ in range(_TRIES):
            sent = agent.next_export(receiver, interval_s)
            if whole := sent > subnets * _LEAST_BYTES:
                break
        if not whole:
            raise EppingError(f"only {sent:,} bytes of {subnets:,} subnets were exported", agent.log)
        peak_mib = agent.memory_mb("VmHWM") * 1e6 / _MIB
    columns = [Column("what"), Column("measured", ",.1f"), Column("otel-epping check said", ",.1f")]
    table = Table(f"{subnets:,} subnets at scale {_SCALE}", columns)
    figures = {"million.kernel_mib": kernel_mib, "million.agent_mib": peak_mib}
    figures |= {f"million.{where}_check_mib": mib + _ROUNDED_MIB for where, mib in promised.items()}
    table.add("kernel memory, MiB", kernel_mib, promised.get("kernel"))
    table.add("the agent's memory at its peak, MiB", peak_mib, promised.get("agent"))
    table.add("the agent's memory after the start, MB", idle_mb, None)
    table.add("from the command until attached, s", start_s, None)
    table.add("MB of an export", sent / 1e6, None)
    return Result([table], figures)
