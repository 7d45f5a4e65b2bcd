# SPDX-License-Identifier: Apache-2.0
"""Finds the AS and the country (place) of subnets and of named networks in databases."""

from typing import TYPE_CHECKING, Any

import numpy as np

from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.database import prefix
from otel_epping.networks.network import Network, Networks
from otel_epping.networks.place import NOWHERE, Place
from otel_epping.series.subnet import prefix_of

if TYPE_CHECKING:
    from otel_epping.networks.databases import Databases


class Places:
    """The places of subnets and of named networks. Without databases, the place of each network is NOWHERE."""

    def __init__(self, databases: "Databases | None", config: EppingConfig) -> None:
        self._databases, self._config = databases, config
        self._generation = databases.generation if databases else 0
        self._networks = Networks()
        self._numbers: dict[Network, int] = {}
        self._order, self._bounds = np.zeros(0, np.int64), np.zeros(1, np.int64)
        # The places that were found, so that a network that is no longer in the file keeps its place until its last
        # counts are exported.
        self._places: dict[Network, Place] = {}
        self._former_places: dict[Network, Place] = {}

    def refresh(self, networks: Networks) -> bool:
        """Prepares for a reading. `networks` are the networks in use.

        Returns true if places may have changed. Then look up the places of all networks again.
        """
        if self._databases is None or (networks is self._networks and self._databases.generation == self._generation):
            return False
        self._generation = self._databases.generation
        if networks is not self._networks:
            self._networks = networks
            self._numbers = {network: number for number, network in enumerate(networks.networks)}
            self._order = np.argsort(networks.prefixes["network"], kind="stable")
            self._bounds = np.searchsorted(
                networks.prefixes["network"][self._order], np.arange(len(networks.networks) + 1)
            )
        self._former_places, self._places = self._places, {}
        return True

    def of_subnet(self, key: Any) -> Place:
        """Returns the place of the subnet in the key of a slot."""
        return self._databases.of([prefix_of(key, self._config)]) if self._databases else NOWHERE

    def of_network(self, network: Network) -> Place:
        """Returns the place of all prefixes of a named network."""
        if self._databases is None:
            return NOWHERE
        if network not in self._places:
            self._places[network] = self._look_up(self._databases, network)
        return self._places[network]

    def _look_up(self, databases: "Databases", network: Network) -> Place:
        number = self._numbers.get(network)
        if number is None:
            return self._former_places.get(network, NOWHERE)
        records = self._networks.prefixes[self._order[self._bounds[number] : self._bounds[number + 1]]]
        return databases.of([prefix(each["address"].tobytes(), int(each["length"])) for each in records])
