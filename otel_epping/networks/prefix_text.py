# SPDX-License-Identifier: Apache-2.0
"""Parses prefixes in CIDR notation (RFC 4632, RFC 4291)."""

import ipaddress
from socket import AF_INET, AF_INET6, inet_pton

from otel_epping.networks.line_errors import LineError, quoted

_MAPPED = bytes(10) + b"\xff\xff"  # ::ffff:0:0/96, the prefix of IPv4-mapped addresses
_ADDRESS_BITS = 128
_MAPPED_BITS = 96

# The text of a prefix length -> the length of the IPv6 prefix. Other spellings of a number, such as `08`, are not in
# the tables.
_LENGTHS_V4 = {str(length): _MAPPED_BITS + length for length in range(33)}
_LENGTHS_V6 = {str(length): length for length in range(129)}
_HOST_MASKS = [(1 << (_ADDRESS_BITS - length)) - 1 for length in range(_ADDRESS_BITS + 1)]


def _suggestion(text: str) -> str:
    """Returns the end of an error message: the prefix that the user probably means, or an example."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "write a prefix, such as 198.51.100.0/24 or 2001:db8::/32"
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return f"write {mapped}/{network.prefixlen - _MAPPED_BITS}"
    if "%" in text:
        return "remove the zone after %"
    return f"did you mean {network}?"


def packed(text: str, host_bits: bool = False) -> bytes:
    """Returns the 16 bytes of the IPv6 address, or of the IPv4-mapped address, and one byte with the prefix length.

    The prefix length of an IPv4 prefix is 96 plus its length. An address without a length is a prefix that contains
    only this address. If `host_bits` is true, bits of the address after the prefix are set to 0.

    Raises LineError if the text is not a prefix, or if bits after the prefix are set and `host_bits` is false.
    """
    text = text.strip()
    address_text, slash, length_text = text.partition("/")
    try:
        if ":" in address_text:
            address = inet_pton(AF_INET6, address_text)
            length = _LENGTHS_V6[length_text] if slash else _ADDRESS_BITS
            is_mapped = length >= _MAPPED_BITS and address.startswith(_MAPPED)
        else:
            address = _MAPPED + inet_pton(AF_INET, address_text)
            length = _LENGTHS_V4[length_text] if slash else _ADDRESS_BITS
            is_mapped = False
    except (OSError, ValueError, KeyError):
        cause = f"{quoted(text)} is not a prefix" if text else "the prefix (cidr) is missing"
        raise LineError(f"{cause}: {_suggestion(text)}") from None
    if is_mapped:
        raise LineError(f"{quoted(text)} is an IPv4 prefix in IPv6 notation: {_suggestion(text)}")
    number = int.from_bytes(address, "big")
    if number & _HOST_MASKS[length]:
        if not host_bits:
            raise LineError(f"bits after the prefix are set in {quoted(text)}: {_suggestion(text)}")
        address = (number & ~_HOST_MASKS[length]).to_bytes(16, "big")
    return address + bytes((length,))


def unpacked(prefix: bytes) -> str:
    """Returns the text of a prefix that packed() returned."""
    address, length = prefix[:16], prefix[16]
    if length >= _MAPPED_BITS and address.startswith(_MAPPED):
        return f"{ipaddress.IPv4Address(address[12:])}/{length - _MAPPED_BITS}"
    return f"{ipaddress.IPv6Address(address)}/{length}"
