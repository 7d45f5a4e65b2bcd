# SPDX-License-Identifier: Apache-2.0
"""AS numbers, AS organisations and countries of networks, from one or more databases in MaxMind format."""

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from otel_epping.errors import EppingError
from otel_epping.networks.database import Database, Prefix
from otel_epping.networks.file_watch import FileWatch
from otel_epping.networks.place import Place
from otel_epping.process.escaping import escaped

_log = logging.getLogger(__name__)

# Maximum number of networks whose places are stored, about 0.4 kB for each. If there are more, all places are dropped,
# and looked up again when they are needed.
_MAX_PLACES = 1 << 17


class _State(NamedTuple):
    """The databases in use, by path, and the places that were found in them."""

    databases: dict[str, Database]
    places: dict[tuple[Prefix, ...], Place]


def _place(databases: dict[str, Database], prefixes: tuple[Prefix, ...]) -> Place:
    """Returns for each value the value of the first database that has it.

    The AS organisation is from the first database that has the same AS number, so both belong together.
    """
    places = [each.place(prefixes) for each in databases.values()]
    number = next((each.as_number for each in places if each.as_number), None)
    return Place(
        number,
        next((each.as_organization for each in places if each.as_organization and each.as_number == number), None),
        next((each.country for each in places if each.country), None),
    )


class Databases:
    """Finds the places of networks in databases. Reads a database again when its file has changed.

    The methods may be called from different threads.

    generation  incremented when a database was read again, after which of() may return other places

    Raises EppingError if a database cannot be used. The message names each such database.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.generation = 0
        self._watches = {path: FileWatch(path) for path in paths}
        databases: dict[str, Database] = {}
        failures = []
        for path in self._watches:
            try:
                databases[path] = Database(path)
            except EppingError as error:
                failures.append(str(error))
        if failures:
            raise EppingError("; ".join(failures))
        self._state = _State(databases, {})

    def has(self, field: str) -> bool:
        """Returns True if a database has the value `field` of Place. Takes a second if no database has the value."""
        return any(each.has(field) for each in self._state.databases.values())

    def of(self, prefixes: Iterable[Prefix]) -> Place:
        """Returns the place of a network with these prefixes. The first database that has a value decides.

        A database has a value for a network if the value is the same for every address of all prefixes.
        """
        network = tuple(prefixes)
        databases, places = self._state
        if (place := places.get(network)) is None:
            if len(places) >= _MAX_PLACES:
                places.clear()
            place = places[network] = _place(databases, network)
        return place

    def reopen(self) -> bool:
        """Reads the databases whose files have changed. Returns True if a database was replaced.

        Call the method about once per second. If no file has changed, it costs one stat() per database. If a file has
        changed, the method looks up all stored places in the new database, which may take seconds. So call the method
        in a thread that nothing waits for. Meanwhile of() returns the old places. If a new file cannot be used, the
        method logs an error and keeps the old database.
        """
        changed = {}
        for path in [path for path, watch in self._watches.items() if watch.has_changed()]:
            try:
                changed[path] = Database(path)
            except EppingError as error:
                _log.error("the old database stays in use: %s", error)
        if not changed:
            return False
        databases = self._state.databases | changed
        # Another thread may add places meanwhile. These places are looked up again when they are needed.
        self._state = _State(databases, {network: _place(databases, network) for network in list(self._state.places)})
        self.generation += 1
        _log.info("read databases again: %s", ", ".join(map(escaped, changed)), extra={"files": list(changed)})
        return True
