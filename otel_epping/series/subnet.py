# SPDX-License-Identifier: Apache-2.0
"""From the kernel's slots to named series: the subnet, interface and side that a row of a reading counts for."""

import ipaddress
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import grow
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import OVERFLOW_SLOT, Reading

_V4 = 4

Rows = np.typing.NDArray[np.int64]


class Subnet(NamedTuple):
    """Whom a row counts for. `side` and `method` are the numbers of bpf/maps.h."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    interface: str
    side: int
    method: int


def subnet_of(reading: Reading, row: int, config: EppingConfig) -> Subnet | None:
    """The subnet of a row; None for a row of nobody's, and for the overflow slot."""
    if row == OVERFLOW_SLOT or not reading.created_ns[row]:
        return None
    key = reading.slots[row]["key"]
    address = key["prefix"]["half"].tobytes()
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    if key["family"] == _V4:
        network = ipaddress.IPv4Network((address[12:], config.prefix_v4 - int(key["shorter"])))
    else:
        network = ipaddress.IPv6Network((address, config.prefix_v6 - int(key["shorter"])))
    return Subnet(network, reading.names[int(key["interface"])], int(key["side"]), int(key["method"]))


class RowOwners:
    """Notices when a row is somebody else's: owners of a slot are told apart by the time it was made."""

    def __init__(self) -> None:
        self._created_ns = np.zeros(0, np.int64)

    def update(self, reading: Reading) -> Rows:
        """Takes in a reading and returns the rows that are new or somebody else's now."""
        self._created_ns = grow(self._created_ns, len(reading.created_ns))
        known = self._created_ns[: len(reading.created_ns)]
        changed = np.flatnonzero(reading.created_ns != known)
        known[changed] = reading.created_ns[changed]
        return changed
