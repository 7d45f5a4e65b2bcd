# SPDX-License-Identifier: Apache-2.0
"""Tests the parser of prefixes against `ipaddress`."""

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from otel_epping.networks.line_errors import LineError
from otel_epping.networks.prefix_text import packed, unpacked

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ADDRESSES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).flatmap(lambda address: st.sampled_from([str(address), address.exploded])),
)
PREFIXES = st.one_of(ADDRESSES, st.builds("{}/{}".format, ADDRESSES, st.integers(0, 130)))
TEXTS = st.one_of(PREFIXES, st.text("0123456789abcdef.:/%x -", max_size=20), st.text(max_size=8))


def expected(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bytes:
    """Return the packed form of a network, computed by `ipaddress`."""
    if isinstance(network, ipaddress.IPv4Network):
        return bytes(10) + b"\xff\xff" + network.network_address.packed + bytes([96 + network.prefixlen])
    return network.network_address.packed + bytes([network.prefixlen])


@given(TEXTS)
@example("::ffff:0:0/95")
@example("::ffff:1.2.3.4")
@example("10.0.0.0/024")
@example("\u0661.1.1.1/8")
@example("1.1.1.1/\uff18")
@example("10.0.0.0/0.0.0.255")
def test_a_prefix_is_read_as_by_ipaddress(text: str) -> None:
    network = strict(text)
    if network is None:
        with pytest.raises(LineError) as error:
            packed(text)
        assert str(error.value).isprintable()
    else:
        result = packed(text)
        assert result == expected(network)
        assert packed(text, host_bits=True) == packed(unpacked(result)) == result


def strict(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """Return the network. Returns None for the forms that only `ipaddress` accepts, and for IPv4-mapped networks."""
    text = text.strip()
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        return None
    _, slash, length = text.partition("/")
    is_mapped = isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None
    if (is_mapped and network.prefixlen >= 96) or "%" in text or (slash and length != str(network.prefixlen)):
        return None
    return network


@given(PREFIXES)
def test_host_bits_are_set_to_zero_or_rejected(text: str) -> None:
    try:
        network = ipaddress.ip_network(text, strict=False)
        result = packed(text, host_bits=True)
    except (ValueError, LineError):
        return
    assert result == expected(network)
    if network.network_address != ipaddress.ip_interface(text).ip:
        with pytest.raises(LineError, match=f"did you mean {network}"):
            packed(text)
