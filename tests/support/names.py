# SPDX-License-Identifier: Apache-2.0
"""Named networks and databases for tests of series.

FakeDatabases  the part of Databases that SeriesKeys uses, with places that depend on the prefixes and the generation
"""

import ipaddress
from collections.abc import Iterable, Mapping

import numpy as np

from otel_epping.networks.database import Prefix
from otel_epping.networks.network import PREFIX, Network, Networks
from otel_epping.networks.place import NOWHERE, Place

_MAPPED = bytes(10) + b"\xff\xff"
PLACES = (
    NOWHERE,
    Place(64500, "Example Networks", "DE"),
    Place(64501, None, "DE"),
    Place(64502, "Example Cable", "US"),
    Place(None, None, "US"),
)


def networks_of(prefixes: Mapping[str, Network]) -> Networks:
    """Returns networks with these prefixes, which are in CIDR notation."""
    found = tuple(dict.fromkeys(prefixes.values()))
    records = np.zeros(len(prefixes), PREFIX)
    for record, (text, network) in zip(records, prefixes.items(), strict=True):
        prefix = ipaddress.ip_network(text)
        is_v4 = prefix.version == 4
        packed = (_MAPPED if is_v4 else b"") + prefix.network_address.packed
        record["address"], record["length"] = np.frombuffer(packed, np.uint8), prefix.prefixlen + 96 * is_v4
        record["network"] = found.index(network)
    tags = dict.fromkeys(tag for network in found for tag, _ in network.tags)
    return Networks(found, records, tuple(tags))


class FakeDatabases:
    """Databases in which each prefix has one of PLACES. Increment `generation` to replace the databases."""

    def __init__(self) -> None:
        self.generation = 0

    def of(self, prefixes: Iterable[Prefix]) -> Place:
        places = [self._place(prefix) for prefix in prefixes]
        shared = places[0]
        for place in places[1:]:
            shared = shared.shared_with(place)
        return shared

    def _place(self, prefix: Prefix) -> Place:
        return PLACES[(sum(prefix.network_address.packed) * (1 + self.generation)) % len(PLACES)]
