# SPDX-License-Identifier: Apache-2.0
"""Decides what a series stands for: a subnet, a named network, or a group of subnets and named networks.

The key of a slot says to which subnet or to which named network the counts of the slot belong. SeriesKeys turns the key
of a slot into the key of a series. The key of a named network or of a group has no prefix, but it has details
(details.py). Slots with the same series key are added up. So no two series have the same attributes, even if two named
networks differ only in tags that are not exported.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from otel_epping.errors import EppingError
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import FAMILY_NAMED, Reading
from otel_epping.networks.network import Network, Networks
from otel_epping.series.details import NO_DETAILS, Details, DetailsNumbers
from otel_epping.series.places import Places
from otel_epping.series.prefixes import KEY, Key

if TYPE_CHECKING:
    from otel_epping.networks.databases import Databases

SUBNET, NAME, ASN, COUNTRY = "subnet", "name", "asn", "country"


@dataclass(frozen=True)
class Grouping:
    """Describes what a series stands for. Raises EppingError if `group_by` needs a database and `databases` is None.

    group_by   `subnet`: each subnet and each named network. `name`: each named network. `asn`, `country`: all subnets
               and named networks with the same AS number or country. A tag: all named networks with the same value of
               the tag. All subnets and named networks without a value are one group
    tags       the exported tags of named networks, if `group_by` is `subnet` or `name`
    databases  databases of AS numbers, AS organisations and countries. If `group_by` is `subnet` or `name`, these
               values are attributes of each subnet and named network
    """

    group_by: str = SUBNET
    tags: tuple[str, ...] = ()
    databases: "Databases | None" = None

    def __post_init__(self) -> None:
        if self.group_by in (ASN, COUNTRY) and self.databases is None:
            raise EppingError(f"group_by is {self.group_by}, but there is no database: open one with Databases")

    @property
    def has_subnets(self) -> bool:
        """True if a series can stand for a subnet or for a covering prefix."""
        return self.group_by == SUBNET


class SeriesKeys:
    """Computes the keys of series from the keys of slots.

    details  the details that the keys refer to
    """

    def __init__(self, grouping: Grouping, config: EppingConfig) -> None:
        self.details = DetailsNumbers()
        self._grouping = grouping
        self._places = Places(grouping.databases, config)

    def refresh(self, networks: Networks) -> bool:
        """Prepares for a reading. `networks` are the named networks in use.

        Returns true if of() may return other keys for the same slots than before. The name and the tags of a slot's
        network never change. But its place changes if a database is replaced, or if the network gets other prefixes.
        """
        return self._places.refresh(networks)

    def of(self, reading: Reading, rows: Indexes) -> list[Key]:
        """Returns the series key of each given row. Each of the rows must have an owner."""
        slots = reading.slots["key"][rows]
        keys = np.zeros(len(rows), KEY)
        for field in ("prefix", "interface", "family", "side"):
            keys[field] = slots[field]
        is_named = slots["family"] == FAMILY_NAMED
        has_details, has_no_prefix = is_named, is_named
        if not self._grouping.has_subnets:
            has_details = has_no_prefix = np.ones(len(rows), np.bool_)
        elif self._grouping.databases:
            has_details = np.ones(len(rows), np.bool_)
        found = [self.details.find(self._details(slot, reading)) for slot in slots[has_details]]
        keys["details"][has_details] = found
        keys["prefix"]["half"][has_no_prefix] = 0
        keys["family"][has_no_prefix] = FAMILY_NAMED
        return [key.tobytes() for key in keys]

    def _details(self, slot: Any, reading: Reading) -> Details:
        """Returns the details of a slot. `slot` is the key of the slot."""
        network: Network | None = None
        if slot["family"] == FAMILY_NAMED:
            network = reading.networks[int(slot["prefix"]["half"][0])]
        group_by = self._grouping.group_by
        if group_by in (ASN, COUNTRY):
            place = self._places.of_network(network) if network else self._places.of_subnet(slot)
            if group_by == COUNTRY:
                return Details(country=place.country)
            organization = place.as_organization if place.as_number else None
            return Details(as_number=place.as_number, as_organization=organization)
        if network is None:
            return Details(None, (), *self._places.of_subnet(slot)) if group_by == SUBNET else NO_DETAILS
        tags = dict(network.tags)
        if group_by in (SUBNET, NAME):
            exported = tuple((tag, tags[tag]) for tag in self._grouping.tags if tag in tags)
            return Details(network.name, exported, *self._places.of_network(network))
        return Details(tags=((group_by, tags[group_by]),)) if group_by in tags else NO_DETAILS
