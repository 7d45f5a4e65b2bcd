# SPDX-License-Identifier: Apache-2.0
"""Sends real packets to and from thousands of simulated subnets through the agent's interface."""

import numpy as np

from bench import fill_maps
from bench.fill_maps import Maps
from bench.veth_pair import Burst, VethPair
from bench.watching_process import WatchingProcess
from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.program import Map
from otel_epping.kernel.read.slot_tables import ANSWERED, states_of

_FILLED = ("histograms", "blocks", "claims", "control", "slots")
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

    def send(self, servers: int, turns: int = 1) -> None:
        """Sends `turns` segments to each server, and a reply to each segment. Each server has its own subnet.

        From the second turn on, each server's reply completes an RTT sample. From the third turn on, the client's
        segments complete RTT samples, too.
        """
        for first in range(0, servers, _AT_ONCE):
            numbers = np.arange(first, min(first + _AT_ONCE, servers))
            for turn in range(self._turn, self._turn + turns):
                for packets in fill_maps.segments_and_replies(numbers, servers, turn):
                    Burst(self._ends[bool(packets.egress[0])], packets.rows, packets.sizes).send()
        self._turn += turns


def activate(process: WatchingProcess, traffic: SubnetTraffic, subnets: int, like: Maps, scale: int) -> None:
    """Makes `subnets` subnets active, including the clients' subnet.

    Fills the subnets' histograms with the RTTs of a day.
    """
    traffic.send(subnets - 1, fill_maps.TURNS)
    fds = process.maps()
    maps = {name: Map(fds[name], like[name].layout) for name in _FILLED}
    slots = fill_maps.records(maps["slots"], Array("slots", maps["slots"]).length)
    answered = int(np.count_nonzero(states_of(slots) == ANSWERED))
    if answered < fill_maps.ENOUGH * subnets:
        raise EppingError(f"packets were lost: only {answered} of {subnets} subnets answered. Run the benchmark again")
    fill_maps.fill(maps, scale)
