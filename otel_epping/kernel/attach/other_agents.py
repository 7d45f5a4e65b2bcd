# SPDX-License-Identifier: Apache-2.0
"""Other agents of the same network namespace, so that two agents do not compete for the first place on a hook.

An agent that comes first on a hook says so to the others, by a datagram to an abstract Unix socket. Abstract sockets
belong to a network namespace, as interfaces do. Any user can send such a datagram. The worst outcome is that an agent
stays behind another program until packets are missing (hook_monitor.py).
"""

import socket
import struct
from contextlib import suppress

_MAX_AGENTS = 32
_MESSAGE = struct.Struct("=I")  # the index of an interface


def _address(number: int) -> str:
    return f"\0otel-epping/peer/{number}"


class Peers:
    """Says to other agents what we attached to, and hears what they attached to.

    Nothing is raised: an agent that cannot have such a socket has no peers.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._own = -1

    def _open(self) -> socket.socket:
        """A socket with the first name that is free, in the network namespace of the caller, who attaches."""
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        for number in range(_MAX_AGENTS):
            with suppress(OSError):  # another agent has the name
                opened.bind(_address(number))
                self._own = number
                break
        return opened

    def announce(self, ifindex: int) -> None:
        """Says that we came first on a hook of this interface."""
        if self._socket is None:
            with suppress(OSError):  # no descriptor is left
                self._socket = self._open()
        if self._socket is None:
            return
        for number in range(_MAX_AGENTS):
            if number != self._own:
                with suppress(OSError):  # there is no such agent, or its queue is full
                    self._socket.sendto(_MESSAGE.pack(ifindex), _address(number))

    def heard(self) -> set[int]:
        """The interfaces on which others came first since this was last asked."""
        found: set[int] = set()
        if self._socket is not None:
            with suppress(BlockingIOError):
                while True:
                    message = self._socket.recv(_MESSAGE.size)
                    if len(message) == _MESSAGE.size:
                        found.add(_MESSAGE.unpack(message)[0])
        return found
