# SPDX-License-Identifier: Apache-2.0
"""The workloads that kernel.py measures. A workload has a packet form, a number of flows and a number of subnets."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bench.packets import ACK, DATA, DATA_NO_TS, UDP, Packets, rows_of
from bench.traffic_model import TrafficModel
from otel_epping.kernel.config import EppingConfig

MIXED = "mixed"
BOTH = "both"
MILLION = 1_000_000

_MIN_RUNS = 20_000
_MANY = 60_000
# The sizes of the large flow tables: the size of the flow table of ePPing, and a size for a million flows.
_LARGE_TABLE, _TABLE_FOR_A_MILLION = 1 << 17, 1 << 20


@dataclass(frozen=True)
class Workload:
    """Packets of one form, or mixed packets. The packets belong to `flows` flows to `subnets` subnets.

    kernel.py describes `repeated`, and traffic_model.py describes `skewed`.
    """

    form: str
    flows: int
    subnets: int
    family: int = 4
    repeated: bool = False
    skewed: bool = False

    @property
    def name(self) -> str:
        """The name of the workload in the tables."""
        traits = {"IPv6": self.family == 6, "repeated": self.repeated, "skewed": self.skewed}
        return ", ".join([self.form, *(trait for trait, is_set in traits.items() if is_set)])

    @property
    def large_tables(self) -> EppingConfig | None:
        """The configuration with large tables, or None if the default tables are large enough for the workload."""
        if self.flows < _MANY:
            return None
        return EppingConfig(
            max_flows=_LARGE_TABLE if self.flows < _LARGE_TABLE else _TABLE_FOR_A_MILLION, max_subnets=1 << 16
        )


KNOWN = Workload(DATA, 1, 1, repeated=True)
ONE, MANY = Workload(DATA, 1, 1), Workload(DATA, _MANY, 1_000)
FEW_MIXED, SOME_MIXED = Workload(MIXED, 1_000, 10), Workload(MIXED, 1_000, 1_000)
MANY_MIXED, MANY_UNIFORM = Workload(MIXED, _MANY, 1_000, skewed=True), Workload(MIXED, _MANY, 1_000)
# The workloads are ordered by the number of flows. The last workloads fill the flow table of the program ePPing
# (131,072 flows). With a full flow table, ePPing needs more time for each packet.
WORKLOADS = (
    KNOWN,
    Workload(ACK, 1, 1, repeated=True),
    Workload(DATA_NO_TS, 1, 1, repeated=True),
    Workload(UDP, 1, 1, repeated=True),
    Workload(DATA, 1, 1, family=6, repeated=True),
    ONE,
    Workload(DATA, 1_000, 10),
    Workload(DATA, 1_000, 1_000),
    FEW_MIXED,
    SOME_MIXED,
    MANY_MIXED,
    MANY_UNIFORM,
    Workload(DATA, _MANY, 10),
    MANY,
    Workload(ACK, _MANY, 1_000),
    Workload(DATA_NO_TS, _MANY, 1_000),
    Workload(UDP, _MANY, 1_000),
    Workload(DATA, _MANY, 1_000, family=6),
    Workload(DATA, _MANY, 16_000),
    Workload(DATA, MILLION, 16_000),
)
TINY = (ONE, MANY, FEW_MIXED, MANY_MIXED)


def stream(workload: Workload, hook: str, tiny: bool) -> Iterator[Packets]:
    """Yields the packets of each round.

    The first round creates the flows. The times of the first round are not used.
    """
    minimum = 100 if tiny else _MIN_RUNS
    if workload.form == MIXED:
        mixed = TrafficModel(workload.flows, workload.subnets, skewed=workload.skewed)
        yield mixed.one_of_each()
        while True:
            yield mixed.packets(max(minimum, workload.flows))
    out = hook == "egress"
    flows = np.arange(min(workload.flows, minimum) if tiny else workload.flows)
    if not workload.repeated:
        flows = np.tile(flows, -(-minimum // workload.flows))
    # A flow table places its entries in memory in the order of the first packets of the flows. The measured packets
    # have a different order. If the measured packets had the order of the first packets, the CPU would prefetch the
    # entries, and the measured time with 60,000 flows would be a third too low.
    first, other = (
        Packets.one_way(rows_of(workload.form, order, workload.subnets, out, workload.family), out)
        for order in (np.random.default_rng(number).permutation(flows) for number in range(2))
    )
    yield first
    while True:
        yield other
