# SPDX-License-Identifier: Apache-2.0
"""The mixes of packets that kernel.py measures."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.mixed import Mixed
from bench.packets import ACK, DATA, DATA_BARE, UDP, Packets, rows_of
from otel_epping.kernel.config import EppingConfig

MIXED = "mixed"
BOTH = "both"
MILLION = 1_000_000

_LEAST_RUNS = 20_000
_MANY = 60_000
# As many flows as ePPing has room for.
_ROOM, _ROOM_FOR_A_MILLION = 1 << 17, 1 << 20


@dataclass(frozen=True)
class Mix:
    """`flows` flows to `subnets` subnets, in packets of one form, or mixed; `repeated`: see kernel.py; `uneven`: see
    mixed.py."""

    form: str
    flows: int
    subnets: int
    family: int = 4
    repeated: bool = False
    uneven: bool = False

    @property
    def name(self) -> str:
        """What it is called in the table."""
        traits = {"IPv6": self.family == 6, "repeated": self.repeated, "uneven": self.uneven}
        return ", ".join([self.form, *(trait for trait, it_has in traits.items() if it_has)])

    @property
    def room(self) -> EppingConfig | None:
        """The configuration that gives it room; None where the default has enough."""
        if self.flows < _MANY:
            return None
        return EppingConfig(max_flows=_ROOM if self.flows < _ROOM else _ROOM_FOR_A_MILLION, max_subnets=1 << 16)


KNOWN = Mix(DATA, 1, 1, repeated=True)
ONE, MANY = Mix(DATA, 1, 1), Mix(DATA, _MANY, 1_000)
FEW_MIXED, SOME_MIXED = Mix(MIXED, 1_000, 10), Mix(MIXED, 1_000, 1_000)
MANY_MIXED, MANY_ALIKE = Mix(MIXED, _MANY, 1_000, uneven=True), Mix(MIXED, _MANY, 1_000)
# The more flows, the later: the table of ePPing, of 131,072, is full in the end, and all it does then takes it longer.
MIXES = (
    KNOWN,
    Mix(ACK, 1, 1, repeated=True),
    Mix(DATA_BARE, 1, 1, repeated=True),
    Mix(UDP, 1, 1, repeated=True),
    Mix(DATA, 1, 1, family=6, repeated=True),
    ONE,
    Mix(DATA, 1_000, 10),
    Mix(DATA, 1_000, 1_000),
    FEW_MIXED,
    SOME_MIXED,
    MANY_MIXED,
    MANY_ALIKE,
    Mix(DATA, _MANY, 10),
    MANY,
    Mix(ACK, _MANY, 1_000),
    Mix(DATA_BARE, _MANY, 1_000),
    Mix(UDP, _MANY, 1_000),
    Mix(DATA, _MANY, 1_000, family=6),
    Mix(DATA, _MANY, 16_000),
    Mix(DATA, MILLION, 16_000),
)
TINY = (ONE, MANY, FEW_MIXED, MANY_MIXED)


def stream(mix: Mix, hook: str, tiny: bool) -> Iterator[Packets]:
    """Packets for round after round; those of the first don't count."""
    least = 100 if tiny else _LEAST_RUNS
    if mix.form == MIXED:
        mixed = Mixed(mix.flows, mix.subnets, uneven=mix.uneven)
        yield mixed.one_of_each()
        while True:
            yield mixed.any(max(least, mix.flows))
    out = hook == "egress"
    flows = np.arange(min(mix.flows, least) if tiny else mix.flows)
    if not mix.repeated:
        flows = np.tile(flows, -(-least // mix.flows))
    # Another order than that in which they came first, and were given their places in the memory of a table: in that
    # one, the CPU would see what is next, and 60,000 flows seem a third cheaper than they are.
    first, other = (
        Packets.alike(rows_of(mix.form, order, mix.subnets, out, mix.family), out)
        for order in (np.random.default_rng(number).permutation(flows) for number in range(2))
    )
    yield first
    while True:
        yield other
