# SPDX-License-Identifier: Apache-2.0
"""One database in MaxMind format (https://maxmind.github.io/MaxMind-DB/), read by the library maxminddb.

The file is copied into memory. A mapped file would be opened faster. But if another process truncates a mapped file,
the kernel ends the process that reads the mapping (SIGBUS). The library's decoder in C is not used, because it only
reads mapped files. With the decoder in Python, a damaged file causes at most an exception. docs/databases.md has the
times of look-ups.
"""

import io
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import chain, islice
from types import ModuleType

from otel_epping.errors import EppingError
from otel_epping.networks.place import NOWHERE, Place, place_of
from otel_epping.process.escaping import escaped, printable

_log = logging.getLogger(__name__)

Prefix = IPv4Network | IPv6Network

# A network has no values if it has more entries in the database than this number plus the number of its prefixes.
MAX_ENTRIES = 1024
# A larger file is refused, because the agent would take too much memory. The largest free databases have 80 MB.
_MAX_BYTES = 1 << 30
_FORMAT_VERSION = 2
_DAY_S = 86_400
_OUTDATED_DAYS = 365
# In MaxMind's trees, 2001::/32 (Teredo) is an alias of the IPv4 tree. Bits 32 to 63 of a Teredo address are the address
# of the Teredo server (RFC 4380). So a look-up would find the server's network, which is not the host's network.
_TEREDO = IPv6Network("2001::/32")
_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96
_MAPPED_BITS = 96
# The first bytes of compressed files, and the command that unpacks the file.
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"PK\x03\x04": "unzip", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_CURE = "download it again"
# Prefixes in which _samples() looks for values: each IPv4 /8, all of IPv6, and the allocated blocks of IPv6.
_SAMPLED: tuple[Prefix, ...] = (
    *(IPv4Network((first << 24, 8)) for first in range(256)),
    *map(IPv6Network, ("::/0", "2001:200::/23", "2400::/12", "2600::/12", "2800::/12", "2a00::/12", "2c00::/12")),
)
_SAMPLED_ENTRIES = 64  # of each prefix


def prefix(address: bytes, length: int) -> Prefix:
    """Returns a prefix. `address` has 16 bytes, and `length` is the length of an IPv6 prefix, as in network.PREFIX."""
    if address.startswith(_MAPPED) and length >= _MAPPED_BITS:
        return IPv4Network((address[len(_MAPPED) :], length - _MAPPED_BITS))
    return IPv6Network((address, length))


class _File(io.BytesIO):
    """A file in memory. Before version 3, the library needs the name of the file."""

    name = "database"


class Database:
    """Finds the places of networks in one database.

    Raises EppingError if the library is not installed or the file cannot be used. Logs a warning if the database is
    older than a year.
    """

    def __init__(self, path: str) -> None:
        self._path = escaped(path)
        self._is_damage_logged = False
        maxminddb = _library()
        content = _read(path, self._path)
        # The library documents no complete list of the exceptions for damaged files.
        try:
            self._reader = maxminddb.open_database(_File(content), maxminddb.MODE_FD)
            metadata = self._reader.metadata()
            is_known = metadata.binary_format_major_version == _FORMAT_VERSION and metadata.ip_version in (4, 6)
            self._has_ipv6 = metadata.ip_version == 6
            kind = printable(str(metadata.database_type))
            built_s = int(metadata.build_epoch)
        except Exception as error:
            raise EppingError(_foreign(content, self._path)) from error
        if not is_known:
            raise EppingError(f"{self._path} has an unknown version of the MaxMind format: {_CURE}")
        if not any(place != NOWHERE for place in self._samples()):
            raise EppingError(
                f"{self._path} ({kind}) has no AS numbers, AS organisations or countries: use a database such as "
                "GeoLite2-ASN or GeoLite2-Country"
            )
        self._warn_if_old(built_s)

    def place(self, prefixes: Sequence[Prefix]) -> Place:
        """Returns the values that are the same for every address of the prefixes.

        Returns NOWHERE if the prefixes have too many entries in the database.
        """
        shared: Place | None = None
        try:
            for number, record in enumerate(chain.from_iterable(map(self._records, prefixes)), 1):
                place = place_of(record)
                shared = shared.shared_with(place) if shared else place
                if shared == NOWHERE or number > MAX_ENTRIES + len(prefixes):
                    return NOWHERE
        except Exception as error:  # see __init__()
            if not self._is_damage_logged:
                self._is_damage_logged = True
                _log.error(
                    "%s is damaged (%s), so some networks have no AS number and no country: %s",
                    self._path,
                    type(error).__name__,
                    _CURE,
                )
            return NOWHERE
        return shared or NOWHERE

    def _records(self, prefix: Prefix) -> Iterator[object]:
        """Yields the record of each entry of the database inside the prefix or around the prefix.

        Yields None for addresses without an entry.
        """
        if isinstance(prefix, IPv6Network) and (not self._has_ipv6 or prefix.subnet_of(_TEREDO)):
            yield None
            return
        address, end = int(prefix.network_address), int(prefix.broadcast_address) + 1
        make_address = type(prefix.network_address)
        while address < end:
            record, length = self._reader.get_with_prefix_len(make_address(address))
            # If all of IPv4 has one entry, the entry belongs to a prefix of IPv6 that contains ::/96. So the database
            # has no IPv4 addresses.
            yield None if prefix.version == 4 and length == 0 else record
            address += 1 << (prefix.max_prefixlen - length)

    def has(self, field: str) -> bool:
        """Returns True if a sampled record has the value `field` of Place.

        Raises EppingError if a sampled record is damaged.
        """
        return any(getattr(place, field) is not None for place in self._samples())

    def _samples(self) -> Iterator[Place]:
        """Yields the places of sampled records. Raises EppingError if a sampled record is damaged."""
        try:
            for prefix in _SAMPLED:
                yield from map(place_of, islice(self._records(prefix), _SAMPLED_ENTRIES))
        except Exception as error:  # see __init__()
            raise EppingError(f"{self._path} is damaged: {_CURE}") from error

    def _warn_if_old(self, built_s: int) -> None:
        days = (int(time.time()) - built_s) // _DAY_S
        if days > _OUTDATED_DAYS and built_s >= 0:
            _log.warning(
                "%s was built on %s, %s days ago: AS numbers and countries may be wrong; download a newer database",
                self._path,
                time.strftime("%Y-%m-%d", time.gmtime(built_s)),
                f"{days:,}",
            )


def _library() -> ModuleType:
    try:
        import maxminddb
    except ImportError:
        raise EppingError(
            "the library maxminddb, which reads databases, is not installed: pip install 'otel-epping[databases]'"
        ) from None
    return maxminddb


def _read(path: str, shown: str) -> bytes:
    """Returns the content of a regular file. Error messages contain the path `shown`."""
    try:
        # Without O_NONBLOCK, open() would wait for a writer if the file is a named pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise EppingError(f"{shown} is not a regular file: set the path of a database")
            if status.st_size > _MAX_BYTES:
                raise EppingError(f"{shown} has more than {_MAX_BYTES >> 20:,} MiB: use a smaller database")
            return file.read()
    except (OSError, ValueError) as error:  # ValueError: the path contains a zero byte
        cause = error.strerror if isinstance(error, OSError) else error
        raise EppingError(f"cannot read the database {shown} ({cause}): check the path and the permissions") from error


def _foreign(content: bytes, shown: str) -> str:
    """Returns the error message for a file that is not in MaxMind format."""
    for start, command in _COMPRESSED.items():
        if content.startswith(start):
            return f"{shown} is compressed: unpack it with {command}"
    return f"{shown} is not in MaxMind format (.mmdb), or it is truncated: {_CURE}"
