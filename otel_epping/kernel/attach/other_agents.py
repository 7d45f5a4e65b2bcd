# SPDX-License-Identifier: Apache-2.0
"""Communicates with other agents in the same network namespace, so that agents do not compete for the front of a hook.

When an agent attaches its program to the front of a hook, the agent announces the attachment to the other agents. The
announcement is a datagram to an abstract Unix socket. Abstract sockets belong to a network namespace, like interfaces.
Any user can send a false announcement. In the worst case, an agent that receives the false announcement does not move
its program to the front until packets are missing (hook_monitor.py).
"""

import socket
import struct
from contextlib import suppress

_MAX_AGENTS = 32
_MESSAGE = struct.Struct("=I")  # the index of an interface


def _address(number: int) -> str:
    return f"\0otel-epping/peer/{number}"


class OtherAgents:
    """Announces our attachments to other agents, and receives the announcements of other agents.

    No method raises an error. An agent that cannot open a socket behaves as if it were the only agent.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._own_number = -1

    def _open(self) -> socket.socket:
        """Opens a socket with the first free address, in the network namespace of the calling thread."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        for number in range(_MAX_AGENTS):
            with suppress(OSError):  # another agent has the address
                opened.bind(_address(number))
                self._own_number = number
                break
        return opened

    def announce(self, ifindex: int) -> None:
        """Announces to all other agents that we attached our program to the front of a hook of an interface."""
        if self._socket is None:
            with suppress(OSError):  # no descriptor is left
                self._socket = self._open()
        if self._socket is None:
            return
        for number in range(_MAX_AGENTS):
            if number != self._own_number:
                with suppress(OSError):  # no agent has this address, or the queue of the agent is full
                    self._socket.sendto(_MESSAGE.pack(ifindex), _address(number))

    def receive(self) -> set[int]:
        """Returns the indexes of the interfaces in the announcements that have arrived since the last call."""
        found: set[int] = set()
        if self._socket is not None:
            with suppress(BlockingIOError):
                while True:
                    message = self._socket.recv(_MESSAGE.size)
                    if len(message) == _MESSAGE.size:
                        found.add(_MESSAGE.unpack(message)[0])
        return found
