# SPDX-License-Identifier: Apache-2.0
"""Servers in thousands of subnets, made up, whose packets are real: the agent's share of a benchmark's traffic."""

import numpy as np

from bench import filled
from bench.agents import Agent
from bench.filled import Maps
from bench.hosts import Burst, Hosts
from otel_epping.errors import EppingError
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.program import Map

_FILLED = ("histograms", "control", "slots")
_AT_ONCE = 1_000


def layouts(config: EppingConfig) -> Maps:
    """How the maps of a program with this configuration are laid out: an agent's are the same."""
    with EppingCollector(config) as collector:
        return {name: collector.program.maps[name] for name in _FILLED}


class Crowd:
    """Speaks to servers through the agent's interface, and answers for them; frames from sockets of both hosts."""

    def __init__(self, hosts: Hosts) -> None:
        self._ends = {egress: hosts.raw(near=egress) for egress in (True, False)}
        self._turn = 0

    def speak(self, servers: int) -> None:
        """A segment to each, in a subnet of its own, and the answers: a round-trip time from the second turn on."""
        for first in range(0, servers, _AT_ONCE):
            numbers = np.arange(first, min(first + _AT_ONCE, servers))
            for packets in filled.exchange(numbers, servers, self._turn):
                Burst(self._ends[bool(packets.egress[0])], packets.rows, packets.sizes).send()
        self._turn += 1


def settle(agent: Agent, crowd: Crowd, subnets: int, like: Maps, scale: int) -> None:
    """Has so many subnets active, the clients' own among them, whose histograms are those of a day."""
    crowd.speak(subnets - 1)
    fds = agent.maps()
    maps = {name: Map(fds[name], like[name].layout) for name in _FILLED}
    live = int(filled.records(maps["slots"], subnets + 1)["live"].sum())
    if live != subnets:
        raise EppingError(f"{live} of {subnets} subnets have a slot: packets were lost")
    filled.fill(maps, subnets, scale)
