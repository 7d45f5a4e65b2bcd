# SPDX-License-Identifier: Apache-2.0
"""Reads Networks as plain Python objects, for the tests of files of names."""

import ipaddress
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.networks import files
from otel_epping.networks.network import Networks


def names_by_prefix(networks: Networks) -> dict[str, str]:
    """Return the name of each prefix, in CIDR notation."""
    found = {}
    for row in networks.prefixes:
        address = ipaddress.IPv6Address(row["address"].tobytes())
        length = int(row["length"])
        prefix = (
            f"{address.ipv4_mapped}/{length - 96}" if address.ipv4_mapped and length >= 96 else f"{address}/{length}"
        )
        found[prefix] = networks.networks[row["network"]].name
    assert len(found) == len(networks.prefixes)
    return found


def tags_by_name(networks: Networks) -> dict[str, dict[str, str]]:
    """Return the tags of each network."""
    found = {network.name: dict(network.tags) for network in networks.networks}
    assert len(found) == len(networks.networks)
    return found


def error_of(path: Path) -> str:
    """Return the message of the error that reading the file raises, without the folder of the file."""
    with pytest.raises(EppingError) as error:
        files.read(str(path))
    return str(error.value).replace(f"{path.parent}/", "")
