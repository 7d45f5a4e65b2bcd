# SPDX-License-Identifier: Apache-2.0
"""Measures the memory for a million subnets (2^20) at scale 2. One export contains new packet counts for all subnets.

`otel-epping check` predicts the memory. The kernel's figure for the memory of the maps must not exceed the predicted
kernel memory. The peak of the agent's memory must not exceed the predicted memory of the agent. The export interval is
60 s. The packets, the receiver and the histograms are the same as in agent_usage.py.
"""

import re
import subprocess
import sys
import time

from bench import active_subnets
from bench.active_subnets import SubnetTraffic
from bench.agent_process import EVERYTHING, AgentProcess
from bench.blackhole import blackhole
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from bench.veth_pair import VethPair
from otel_epping.errors import EppingError
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import map_info

_SUBNETS, _SCALE = 1 << 20, 2
_START_S, _INTERVAL_S, _TRIES = 60.0, 60.0, 3
_MIN_BYTES = 500  # per subnet. A complete export has about 1,500 bytes per subnet. A smaller export is incomplete.
_MIB = 2**20
_ROUNDED_MIB = 0.05  # the largest rounding error: `check` prints one decimal


def checked(options: list[str]) -> dict[str, float]:
    """Returns the MiB that `otel-epping check` predicts for the kernel, and for the agent if `check` predicts it."""
    command = [sys.executable, "-m", "otel_epping", "check", *options]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise EppingError(
            f"otel-epping check {' '.join(options)} failed with status {ran.returncode}", ran.stdout + ran.stderr
        )
    return {where: float(number) for number, where in re.findall(r"([\d.]+) MiB in the (kernel|agent)", ran.stdout)}


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures one start and one export of the agent. Other programs are not measured."""
    subnets, interval_s = (1 << 10, 1.0) if tiny else (_SUBNETS, _INTERVAL_S)
    options = ["--max-subnets", str(subnets), "--scale", str(_SCALE)]
    progress("million_subnets: otel-epping check")
    predicted = checked(options)
    layouts = active_subnets.map_layouts(EppingConfig(max_subnets=subnets, scale=_SCALE))
    with (
        VethPair() as veth,
        blackhole(veth.near) as receiver,
        AgentProcess(veth, receiver.endpoint, "--interval", f"{interval_s}s", *EVERYTHING, *options) as agent,
    ):
        progress("million_subnets: start")
        agent.wait_until(agent.program, _START_S, "it is attached to both hooks", 0.002)
        start_s, idle_mb = time.monotonic() - agent.started_s, agent.memory_mb()
        progress("million_subnets: packets")
        traffic = SubnetTraffic(veth)
        active_subnets.activate(agent, traffic, subnets, layouts, _SCALE)
        kernel_mib = sum(map_info(fd)["memlock"] for fd in agent.maps().values()) / _MIB
        progress("million_subnets: export")
        # An export that starts before all packets are sent is incomplete. The next export may fail, because a complete
        # export may take too long. So the benchmark waits for several exports, until an export is complete.
        for _ in range(_TRIES):
            sent = agent.next_export(receiver, interval_s)
            if whole := sent > subnets * _MIN_BYTES:
                break
        if not whole:
            raise EppingError(
                f"only {sent:,} bytes were exported for {subnets:,} subnets. Run the benchmark again", agent.log
            )
        peak_mib = agent.memory_mb("VmHWM") * 1e6 / _MIB
    columns = [Heading("quantity"), Heading("measured", ",.1f"), Heading("predicted by otel-epping check", ",.1f")]
    table = Table(f"{subnets:,} subnets at scale {_SCALE}", columns)
    figures = {"million_subnets.kernel_mib": kernel_mib, "million_subnets.agent_mib": peak_mib}
    figures |= {f"million_subnets.{where}_check_mib": mib + _ROUNDED_MIB for where, mib in predicted.items()}
    table.add("kernel memory, MiB", kernel_mib, predicted.get("kernel"))
    table.add("peak of the agent's memory, MiB", peak_mib, predicted.get("agent"))
    table.add("agent's memory after the start, MB", idle_mb, None)
    table.add("time from the command until the programs are attached, s", start_s, None)
    table.add("MB per export", sent / 1e6, None)
    return Result([table], figures)
