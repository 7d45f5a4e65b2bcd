# SPDX-License-Identifier: Apache-2.0
"""Named networks and their prefixes."""

from dataclasses import dataclass, field

import numpy as np

from otel_epping.errors import EppingError

# The maximum number of prefixes of all named networks together.
MAX_PREFIXES = 100_000

# A prefix of a named network. `address` is an IPv6 address, or an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2),
# in network byte order. `length` is the prefix length of this IPv6 address: 96 plus the length of an IPv4 prefix. All
# bits of the address after the first `length` bits are 0. `network` is an index into Networks.networks.
PREFIX = np.dtype([("address", "u1", 16), ("length", "u4"), ("network", "u4")])


@dataclass(frozen=True, slots=True)
class Network:
    """A named network. The name and the tags identify the network.

    name  the name, which is not empty
    tags  (tag, value) for each further column of the file; a tag without a value is left out
    """

    name: str
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Networks:
    """All named networks of a file. An address belongs to the network with the longest prefix that contains it.

    networks  the networks, each once
    prefixes  (n,) records of type PREFIX, each prefix once
    tags      the names of all tags, in the order of the file

    Raises EppingError if there are more than MAX_PREFIXES prefixes.
    """

    networks: tuple[Network, ...] = ()
    prefixes: "np.ndarray[tuple[int], np.dtype[np.void]]" = field(default_factory=lambda: np.zeros(0, PREFIX))
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prefixes) > MAX_PREFIXES:
            raise EppingError(f"there are {len(self.prefixes):,} prefixes: at most {MAX_PREFIXES:,} are possible")
