# SPDX-License-Identifier: Apache-2.0
"""Sends real packets to and from thousands of simulated subnets through the agent's interface."""

import numpy as np

from bench import fill_maps
from bench.agent_process import AgentProcess
from bench.fill_maps import Maps
from bench.veth_pair import Burst, VethPair
from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.program import Map

_FILLED = ("histograms", "control", "slots")
_AT_ONCE = 1_000


def map_layouts(config: EppingConfig) -> Maps:
    """Returns maps that have the same layouts as the maps of an agent with this configuration."""
    with EppingCollector(config) as collector:
        return {name: collector.program.maps[name] for name in _FILLED}


class SubnetTraffic:
    """Sends segments to servers from the agent's end of the veth pair.

    Sends the servers' replies from the other end.
    """

    def __init__(self, veth: VethPair) -> None:
        self._ends = {egress: veth.raw(near=egress) for egress in (True, False)}
        self._turn = 0

    def send(self, servers: int) -> None:
        """Sends a segment to each server, and then a reply from each server. Each server has its own subnet.

        From the second call of send() on, each server's reply completes an RTT sample.
        """
        for first in range(0, servers, _AT_ONCE):
            numbers = np.arange(first, min(first + _AT_ONCE, servers))
            for packets in fill_maps.segments_and_replies(numbers, servers, self._turn):
                Burst(self._ends[bool(packets.egress[0])], packets.rows, packets.sizes).send()
        self._turn += 1


def activate(agent: AgentProcess, traffic: SubnetTraffic, subnets: int, like: Maps, scale: int) -> None:
    """Makes `subnets` subnets active, including the clients' subnet.

    Fills the subnets' histograms with the RTTs of a day.
    """
    traffic.send(subnets - 1)
    fds = agent.maps()
    maps = {name: Map(fds[name], like[name].layout) for name in _FILLED}
    live = int(fill_maps.records(maps["slots"], subnets + 1)["live"].sum())
    if live != subnets:
        raise EppingError(f"packets were lost: only {live} of {subnets} subnets have a slot. Run the benchmark again")
    fill_maps.fill(maps, subnets, scale)
