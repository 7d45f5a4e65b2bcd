# SPDX-License-Identifier: Apache-2.0
"""AS numbers, AS organisations and countries of networks, from one or more databases in MaxMind format."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial

from otel_epping.errors import EppingError
from otel_epping.networks.database import Database, Prefix
from otel_epping.networks.file_watch import FileWatch
from otel_epping.networks.place import Place
from otel_epping.process.escaping import escaped

_log = logging.getLogger(__name__)

# The number of networks whose places are stored. It is at least the number of subnets of most agents.
_STORED = 1 << 17


def _place(databases: Sequence[Database], prefixes: tuple[Prefix, ...]) -> Place:
    """Returns for each value the value of the first database that has it.

    The AS organisation is from the first database that has the same AS number, so both belong together.
    """
    places = [each.place(prefixes) for each in databases]
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
        self._databases: dict[str, Database] = {}
        failures = []
        for path in self._watches:
            try:
                self._databases[path] = Database(path)
            except EppingError as error:
                failures.append(str(error))
        if failures:
            raise EppingError("; ".join(failures))
        self._look_up = self._stored_look_up()

    def of(self, prefixes: Iterable[Prefix]) -> Place:
        """Returns the place of a network with these prefixes. The first database that has a value decides.

        A database has a value for a network if the value is the same for every address of all prefixes.
        """
        return self._look_up(tuple(prefixes))

    def reopen(self) -> bool:
        """Reads the databases whose files have changed. Returns True if a database was replaced.

        The method is called once per second, and costs one stat() per database if no file has changed. If a new file
        cannot be used, logs an error and keeps the old database.
        """
        is_replaced = False
        for path, watch in self._watches.items():
            if watch.has_changed():
                try:
                    self._databases[path] = Database(path)
                except EppingError as error:
                    _log.error("the old database stays in use: %s", error)
                else:
                    _log.info("database %s read again", escaped(path))
                    is_replaced = True
        if is_replaced:
            self._look_up = self._stored_look_up()
            self.generation += 1
        return is_replaced

    def _stored_look_up(self) -> Callable[[tuple[Prefix, ...]], Place]:
        """Returns a function that looks up a network in the current databases, and stores the places that it found."""
        return lru_cache(_STORED)(partial(_place, tuple(self._databases.values())))
