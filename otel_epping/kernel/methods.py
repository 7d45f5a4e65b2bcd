# SPDX-License-Identifier: Apache-2.0
"""The methods that measure round-trip times, in the order of EACH_METHOD (bpf/methods.h). See docs/methods.md."""

from typing import NamedTuple

from otel_epping.errors import EppingError


class Method(NamedTuple):
    """A method.

    name       the name of the method in settings and attributes
    transport  the network transport: tcp, udp, quic or icmp
    summary    the packet that starts an RTT sample, and the packet that completes the sample
    """

    name: str
    transport: str
    summary: str


METHODS = (
    Method("tcp_timestamp", "tcp", "the TSval of a segment and the TSecr that echoes it (RFC 7323)"),
    Method("tcp_sequence", "tcp", "a segment without timestamps and an ACK whose number is the end of the segment"),
    Method("tcp_handshake", "tcp", "a SYN and its SYN-ACK, and also the SYN-ACK and its ACK"),
    Method("icmp_echo", "icmp", "an echo request and its reply"),
    Method("dns", "udp", "a DNS query over UDP and its response (the RTT includes the server's time)"),
    Method("quic_handshake", "quic", "the first QUIC Initial packet and the first reply (QUIC versions 1 and 2)"),
)
ALL = tuple(method.name for method in METHODS)


def mask(names: tuple[str, ...]) -> int:
    """Returns the constant METHODS of bpf/methods.h, which is a bit mask of the given methods.

    Raises EppingError if a name is unknown, or if `names` is empty.
    """
    for name in names:
        if name not in ALL:
            raise EppingError(f"there is no method {name!r}: choose among {', '.join(ALL)}")
    if not names:
        raise EppingError(f"no method is enabled: choose among {', '.join(ALL)}")
    return sum(1 << ALL.index(name) for name in set(names))
