# SPDX-License-Identifier: Apache-2.0
"""Sends a TCP handshake through a veth, so that the program measures an RTT for the subnets of both hosts."""

import socket
import time

from tests.long.fuzz import builders

_SYN, _ACK = 0x02, 0x10
_PORTS = 40_000, 443
# The handshake takes this time, so that each RTT is longer than a tick of the kernel's coarse clock.
_PAUSE_S = 0.005


def shake_hands(near: str, far: str, client: str, server: str) -> None:
    """Send the client's segments out of the interface `near`, and the server's segment out of the peer `far`.

    The calling thread must be in the network namespace of both interfaces.
    """
    addresses = socket.inet_aton(client), socket.inet_aton(server)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as here,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as there,
    ):
        here.bind((near, 0))
        there.bind((far, 0))
        for end, (source, destination), ports, sequence, acknowledged, flags in (
            (here, addresses, _PORTS, 1, 0, _SYN),
            (there, addresses[::-1], _PORTS[::-1], 1, 2, _SYN | _ACK),
            (here, addresses, _PORTS, 2, 2, _ACK),
        ):
            segment = builders.tcp(ports, sequence, acknowledged, flags)
            end.send(builders.link((), 4) + builders.ip(source, destination, 6, segment))
            time.sleep(_PAUSE_S)
