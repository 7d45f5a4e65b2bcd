# SPDX-License-Identifier: Apache-2.0
"""Sends a TCP handshake through a veth, so that the program measures an RTT for the subnets of both hosts."""

import socket

from tests.long.fuzz import builders

_SYN, _ACK = 0x02, 0x10
_PORTS = 40_000, 443


def shake_hands(near: str, far: str, client: str, server: str) -> None:
    """Send the client's segments out of the interface `near`, and the server's segment out of the peer `far`.

    The calling thread must be in the network namespace of both interfaces.
    """
    with packet_socket(near) as here, packet_socket(far) as there:
        exchange(here, there, client, server)


def packet_socket(name: str) -> socket.socket:
    """Return a socket that sends frames out of an interface, in the network namespace of the calling thread."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.bind((name, 0))
    return end


def exchange(here: socket.socket, there: socket.socket, client: str, server: str) -> None:
    """Send the segments of a handshake through two sockets of packet_socket()."""
    addresses = socket.inet_aton(client), socket.inet_aton(server)
    for end, (source, destination), ports, sequence, acknowledged, flags in (
        (here, addresses, _PORTS, 1, 0, _SYN),
        (there, addresses[::-1], _PORTS[::-1], 1, 2, _SYN | _ACK),
        (here, addresses, _PORTS, 2, 2, _ACK),
    ):
        segment = builders.tcp(ports, sequence, acknowledged, flags)
        end.send(builders.link((), 4) + builders.ip(source, destination, 6, segment))
