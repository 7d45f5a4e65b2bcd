# SPDX-License-Identifier: Apache-2.0
"""Keys of series, and covering prefixes. A covering prefix consists of the first bits of a subnet's prefix.

A key consists of the bytes of a record of the type KEY. The first fields are those of the program's struct subnet_key:
a subnet, an interface, the address family, and a side.

shorter  in the key of a covering prefix, the number of bits by which the covering prefix is shorter than the prefixes
         of subnets; otherwise 0
details  the number of the series' details (details.py)

The key of a named network or of a group has no prefix. Its family is FAMILY_NAMED.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from otel_epping.kernel.config import EppingConfig

Key = bytes

KEY = np.dtype(
    [
        ("prefix", [("half", "u8", (2,))]),
        ("interface", "u2"),
        ("family", "u1"),
        ("side", "u1"),
        ("shorter", "u1"),
        ("details", "u4"),
    ]
)

_V4, _V6 = 4, 6
# Lengths of covering prefixes in bits, the longest first. A prefix of length 0 covers the whole address family.
_COVERING = {_V4: (16, 8, 0), _V6: (32, 16, 0)}
_ADDRESS_BITS = 128
# An IPv4 address is the last 32 bits of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
_MAPPED_BITS = {_V4: 96, _V6: 0}


class SubnetKeys:
    """Derives keys from other keys."""

    def __init__(self, config: EppingConfig) -> None:
        self._lengths = {_V4: config.prefix_v4, _V6: config.prefix_v6}

    def is_covering(self, key: Key) -> bool:
        """Returns true if `key` is the key of a covering prefix."""
        return bool(self.record(key)["shorter"])

    def record(self, key: Key) -> Any:
        """Returns the key as a record."""
        return np.frombuffer(key, KEY)[0]

    def covering(self, subnet: Key) -> Iterator[tuple[int, Key]]:
        """Yields (level, key) of each prefix that covers a subnet. The longest prefix is first and has level 0.

        If the prefixes of a level are not shorter than the subnet's own prefix, the level is skipped. No prefix covers
        a named network or a group. A covering prefix has no details, because its subnets may have different details.
        """
        family = int(self.record(subnet)["family"])
        for level, bits in enumerate(_COVERING.get(family, ())):
            shorter = self._lengths[family] - bits
            if shorter > 0:
                record = np.frombuffer(bytearray(subnet), KEY)
                half = record["prefix"]["half"]
                address = int.from_bytes(half.tobytes(), "big")
                host_bits = _ADDRESS_BITS - _MAPPED_BITS[family] - bits
                half[...] = np.frombuffer((address >> host_bits << host_bits).to_bytes(16, "big"), half.dtype)
                record["shorter"], record["details"] = shorter, 0
                yield level, record.tobytes()
