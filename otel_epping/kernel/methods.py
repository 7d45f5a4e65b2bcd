# SPDX-License-Identifier: Apache-2.0
"""The methods that measure round-trip times, in the order of EACH_METHOD (bpf/methods.h); see docs/methods.md."""

from typing import NamedTuple

from otel_epping.errors import EppingError


class Method(NamedTuple):
    """A row: what the method is called, what it measures over, and what begins and ends its RTT."""

    name: str
    transport: str
    summary: str


METHODS = (
    Method("tcp_timestamp", "tcp", "the TSval of a segment and the TSecr that echoes it (RFC 7323)"),
    Method("tcp_sequence", "tcp", "a segment without timestamps and the acknowledgement of just its end"),
    Method("tcp_handshake", "tcp", "a SYN and its SYN-ACK, and the SYN-ACK and its ACK"),
    Method("icmp_echo", "icmp", "an echo request and its reply"),
    Method("dns", "udp", "a DNS query over UDP and its response, the server's time included"),
    Method("quic_handshake", "quic", "the first QUIC Initial and the first reply, versions 1 and 2"),
)
ALL = tuple(method.name for method in METHODS)


def bits(names: tuple[str, ...]) -> int:
    """The constant METHODS of bpf/methods.h. Raises EppingError for a name that is none, and for no name at all."""
    for name in names:
        if name not in ALL:
            raise EppingError(f"there is no method {name!r}: choose among {', '.join(ALL)}")
    if not names:
        raise EppingError(f"no method is left to measure with: choose among {', '.join(ALL)}")
    return sum(1 << ALL.index(name) for name in set(names))
