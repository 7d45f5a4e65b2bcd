# SPDX-License-Identifier: Apache-2.0
"""Finds the owner of a row of a reading: the subnet, the interface and the side."""

import ipaddress
from typing import NamedTuple

from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import SHARED_SLOTS, Reading
from otel_epping.series.projection import SeriesReading

_V4 = 4


class Subnet(NamedTuple):
    """The owner of a row. `side` is a value of enum side (bpf/maps.h)."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    interface: str
    side: int


def subnet_of(reading: Reading | SeriesReading, row: int, config: EppingConfig) -> Subnet | None:
    """Returns the owner of a row. Returns None for a shared slot, and for a row without an owner."""
    if row < SHARED_SLOTS or not reading.created_ns[row]:
        return None
    key = reading.slots[row]["key"]
    address = key["prefix"]["half"].tobytes()
    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    if key["family"] == _V4:
        network = ipaddress.IPv4Network((address[12:], config.prefix_v4 - int(key["shorter"])))
    else:
        network = ipaddress.IPv6Network((address, config.prefix_v6 - int(key["shorter"])))
    return Subnet(network, reading.names[int(key["interface"])], int(key["side"]))
