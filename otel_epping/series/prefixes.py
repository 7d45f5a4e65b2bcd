# SPDX-License-Identifier: Apache-2.0
"""Keys of subnets, and covering prefixes. A covering prefix consists of the first bits of a subnet's prefix.

A key consists of the bytes of the program's struct subnet_key: a subnet, an interface and a side. In the key of a
covering prefix, the field `shorter` is the number of bits by which the covering prefix is shorter than the prefixes of
subnets. In the key of a subnet, the field `shorter` is 0.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from otel_epping.kernel.config import EppingConfig

Key = bytes

_V4, _V6 = 4, 6
# Lengths of covering prefixes in bits, the longest first. A prefix of length 0 covers the whole address family.
_COVERING = {_V4: (16, 8, 0), _V6: (32, 16, 0)}
_ADDRESS_BITS = 128
# An IPv4 address is the last 32 bits of an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2).
_MAPPED_BITS = {_V4: 96, _V6: 0}


class SubnetKeys:
    """Derives keys from other keys. `dtype` is the numpy type of struct subnet_key."""

    def __init__(self, dtype: np.dtype[Any], config: EppingConfig) -> None:
        self._dtype = dtype
        self._lengths = {_V4: config.prefix_v4, _V6: config.prefix_v6}

    def is_covering(self, key: Key) -> bool:
        """Returns true if `key` is the key of a covering prefix."""
        return bool(self.record(key)["shorter"])

    def record(self, key: Key) -> Any:
        """Returns the key as a record of struct subnet_key."""
        return np.frombuffer(key, self._dtype)[0]

    def covering(self, subnet: Key) -> Iterator[tuple[int, Key]]:
        """Yields (level, key) of each prefix that covers a subnet. The longest prefix is first and has level 0.

        If the prefixes of a level are not shorter than the subnet's own prefix, the level is skipped.
        """
        family = int(self.record(subnet)["family"])
        for level, bits in enumerate(_COVERING[family]):
            shorter = self._lengths[family] - bits
            if shorter > 0:
                record = np.frombuffer(bytearray(subnet), self._dtype)
                half = record["prefix"]["half"]
                address = int.from_bytes(half.tobytes(), "big")
                host_bits = _ADDRESS_BITS - _MAPPED_BITS[family] - bits
                half[...] = np.frombuffer((address >> host_bits << host_bits).to_bytes(16, "big"), half.dtype)
                record["shorter"] = shorter
                yield level, record.tobytes()
