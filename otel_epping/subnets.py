# SPDX-License-Identifier: Apache-2.0
"""From the kernel's slots to named series: the subnet, interface and side that a row of a reading counts for."""

import ipaddress
from typing import Any, NamedTuple

import numpy as np

from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.reader import OVERFLOW_SLOT, Reading

_V4 = 4


class Subnet(NamedTuple):
    """Whom a row counts for. `side` and `method` are the numbers of bpf/maps.h."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    interface: str
    side: int
    method: int


def _network(key: Any, config: KernelConfig) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    address = key["prefix"]["half"].tobytes()
    if key["family"] == _V4:
        return ipaddress.IPv4Network((address[12:], config.prefix_v4))
    return ipaddress.IPv6Network((address, config.prefix_v6))


class Subnets:
    """Remembers the subnets of rows, which are told apart by the time their slot was made."""

    def __init__(self, config: KernelConfig) -> None:
        self._config = config
        self._rows: list[Subnet | None] = []
        self._created_ns = np.zeros(0, np.int64)

    def update(self, reading: Reading) -> list[int]:
        """Takes in the rows of a reading and returns those that are new or somebody else's now."""
        known = np.zeros(len(reading.created_ns), np.int64)
        known[: len(self._created_ns)] = self._created_ns
        changed = np.flatnonzero(reading.created_ns != known).tolist()
        self._rows += [None] * (len(known) - len(self._rows))
        for row in changed:
            key = reading.slots[row]["key"]
            self._rows[row] = Subnet(
                _network(key, self._config), reading.names[int(key["interface"])], int(key["side"]), int(key["method"])
            )
        self._created_ns = reading.created_ns.copy()
        return changed

    def __getitem__(self, row: int) -> Subnet | None:
        """The subnet of a row; None for a row of nobody's, and for the overflow slot."""
        return self._rows[row] if row != OVERFLOW_SLOT else None
