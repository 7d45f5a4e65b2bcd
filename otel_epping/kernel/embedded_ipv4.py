# SPDX-License-Identifier: Apache-2.0
"""The kinds of IPv6 addresses that count for the IPv4 address inside them (bpf/embedded_ipv4.h)."""

import ipaddress

from otel_epping.errors import EppingError

# The prefix lengths that a NAT64 can have (RFC 6052, section 2.2).
NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)
# The well-known prefix of NAT64 (RFC 6052, section 2.1).
WELL_KNOWN = ipaddress.IPv6Network("64:ff9b::/96")
NAT64, NONE = "nat64", "none"
# The kinds other than NAT64, and the constant in bpf/config.h that compiles the kind into the program.
_CONSTANTS = {"6to4": "EMBEDDED_6TO4", "teredo": "EMBEDDED_TEREDO", "mapped": "EMBEDDED_MAPPED"}
NAMES = (NAT64, *_CONSTANTS, NONE)
# The maximum number of NAT64 prefixes. The program compares an address with each prefix.
MAX_NAT64_PREFIXES = 8


def _nat64_prefix(text: str) -> ipaddress.IPv6Network:
    names = f"{', '.join(NAMES)}, or a prefix of a NAT64 such as 2001:db8:64::/96"
    try:
        prefix = ipaddress.IPv6Network(text)
    except ValueError as error:
        raise EppingError(f"embedded_ipv4 has {text!r} ({error}): it must be one of {names}") from error
    if prefix.prefixlen not in NAT64_LENGTHS:
        lengths = ", ".join(map(str, NAT64_LENGTHS))
        raise EppingError(f"embedded_ipv4 has {text!r}: the length of a NAT64 prefix is one of {lengths} (RFC 6052)")
    if prefix.network_address.packed[8]:  # the bits 64 to 71 of an address must be 0 (RFC 6052, section 2.2)
        raise EppingError(f"embedded_ipv4 has {text!r}: the bits 64 to 71 of a NAT64 prefix must be 0 (RFC 6052)")
    return prefix


def nat64_prefixes(values: tuple[str, ...]) -> list[ipaddress.IPv6Network]:
    """Returns the NAT64 prefixes in a value of EppingConfig.embedded_ipv4, longest prefix first.

    Raises EppingError if an element of `values` is neither one of NAMES nor a NAT64 prefix, if "none" is not the only
    element, or if there are more than MAX_NAT64_PREFIXES prefixes.
    """
    if NONE in values and len(values) > 1:
        raise EppingError(f"embedded_ipv4 is {','.join(values)}: {NONE} must be the only value")
    prefixes = {_nat64_prefix(value) for value in values if value not in NAMES}
    if NAT64 in values:
        prefixes.add(WELL_KNOWN)
    if len(prefixes) > MAX_NAT64_PREFIXES:
        raise EppingError(
            f"embedded_ipv4 has {len(prefixes)} prefixes of NAT64: at most {MAX_NAT64_PREFIXES} are possible"
        )
    return sorted(prefixes, key=lambda prefix: (-prefix.prefixlen, prefix))


def defines(values: tuple[str, ...]) -> dict[str, int | str]:
    """Returns the constants of bpf/config.h for a value of EppingConfig.embedded_ipv4, by name."""
    prefixes = []
    for prefix in nat64_prefixes(values):
        first, second = divmod(int(prefix.network_address), 1 << 64)
        prefixes.append(f"PREFIX({first:#x}ULL,{second:#x}ULL,{prefix.prefixlen})")
    kinds: dict[str, int | str] = {constant: int(kind in values) for kind, constant in _CONSTANTS.items()}
    return kinds | {"EACH_NAT64(PREFIX)": " ".join(prefixes)}
