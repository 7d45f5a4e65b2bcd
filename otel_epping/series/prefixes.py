# SPDX-License-Identifier: Apache-2.0
"""Keys of series, and the prefixes that cover a subnet: the same bits, but fewer of them.

A key is the program's struct subnet_key as bytes. Without a method (it is 0 then), it is that of a subnet: all methods
of it, on one side of one interface. That of a covering prefix has `shorter`, and is like any other otherwise.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from otel_epping.kernel.config import EppingConfig

Key = bytes

_V4, _V6 = 4, 6
# From the narrowest on; the last is all there is of a family.
_COVERING = {_V4: (16, 8, 0), _V6: (32, 16, 0)}
_ADDRESS_BITS = 128
# An IPv4 address is mapped into an IPv6 one, and its bits are the last 32.
_IN_FRONT = {_V4: 96, _V6: 0}


class SubnetKeys:
    """Makes keys of others; `dtype` is that of struct subnet_key."""

    def __init__(self, dtype: np.dtype[Any], config: EppingConfig) -> None:
        self._dtype = dtype
        self._lengths = {_V4: config.prefix_v4, _V6: config.prefix_v6}
        assert dtype.fields
        self._method: int = dtype.fields["method"][1]

    def method_of(self, key: Key) -> int:
        """The number of the key's method."""
        return key[self._method]

    def with_method(self, key: Key, method: int) -> Key:
        """The key of a subnet's series."""
        if key[self._method] == method:
            return key
        return key[: self._method] + bytes([method]) + key[self._method + 1 :]

    def subnet(self, key: Key) -> Key:
        """The key of the subnet that a series is of."""
        return self.with_method(key, 0)

    def is_covering(self, key: Key) -> bool:
        """Whether it is of a prefix that covers subnets."""
        return bool(self.record(key)["shorter"])

    def record(self, key: Key) -> Any:
        """The key as the program's record."""
        return np.frombuffer(key, self._dtype)[0]

    def covering(self, subnet: Key) -> Iterator[tuple[int, Key]]:
        """Levels and keys of the prefixes that cover a subnet, from the narrowest, of level 0, to all of its family.

        Of a subnet that is as wide as one of them itself, there are fewer.
        """
        family = int(self.record(subnet)["family"])
        for level, bits in enumerate(_COVERING[family]):
            shorter = self._lengths[family] - bits
            if shorter > 0:
                record = np.frombuffer(bytearray(subnet), self._dtype)
                half = record["prefix"]["half"]
                address = int.from_bytes(half.tobytes(), "big")
                behind = _ADDRESS_BITS - _IN_FRONT[family] - bits
                half[...] = np.frombuffer((address >> behind << behind).to_bytes(16, "big"), half.dtype)
                record["shorter"] = shorter
                yield level, record.tobytes()
