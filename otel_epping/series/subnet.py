# SPDX-License-Identifier: Apache-2.0
"""Converts the prefix in a key to the prefix of a subnet."""

import ipaddress
from typing import Any

from otel_epping.kernel.config import EppingConfig

_V4 = 4


def prefix_of(key: Any, config: EppingConfig) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Returns the prefix in a key. `key` is the key of the slot of a subnet, or the key of a series with a prefix."""
    address = key["prefix"]["half"].tobytes()
    if key["family"] == _V4:
        return ipaddress.IPv4Network((address[12:], config.prefix_v4 - int(key["shorter"])))
    return ipaddress.IPv6Network((address, config.prefix_v6 - int(key["shorter"])))
