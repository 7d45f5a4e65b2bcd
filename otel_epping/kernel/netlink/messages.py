# SPDX-License-Identifier: Apache-2.0
"""Messages of rtnetlink(7) and their attributes: requests, dumps, and what the kernel says by itself.

A message is a header, a struct of its kind, and attributes. Numbers are in the machine's byte order. There is only what
links.py, routes.py and traffic_control.py need. pyroute2 has all of it, and takes 10 MB and 80 ms, which is more
than all of our settings and their model together.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from otel_epping.process.text import escaped

# linux/netlink.h
_NLM_F_REQUEST, _NLM_F_REQUEST_DUMP = 0x001, 0x001 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLA_TYPE_MASK = 0x3FFF
_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")

_DATAGRAM = 1 << 16
_TOGETHER = 32  # requests in a datagram, whose answers fit into any socket's buffer
_PATIENCE_S = 1.0
# Of what happened while we were busy; the kernel halves it to what net.core.rmem_max allows.
_BUFFER = 1 << 20


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and values of the attributes in some bytes."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Types and bodies of the messages in a datagram."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind = _MESSAGE.unpack_from(data, at)[:2]
        yield kind, data[at + _MESSAGE.size : at + length]
        at += max(length + 3 & ~3, _MESSAGE.size)


def text_of(value: bytes) -> str:
    """A text that is an attribute, escaped (text.py)."""
    return escaped(value.rstrip(b"\0"))


def _socket(flags: int = 0) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags, socket.NETLINK_ROUTE)


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 0, 0) + body


def dump(kind: int, body: bytes) -> Iterator[bytes]:
    """All that the kernel has of a kind. Raises OSError."""
    with _socket() as asker:
        asker.sendto(_request(kind, _NLM_F_REQUEST_DUMP, body), (0, 0))
        while True:
            for answer, data in messages(asker.recv(_DATAGRAM)):
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    raise OSError(code, os.strerror(code))
                yield data


def ask(kind: int, bodies: Sequence[bytes]) -> Iterator[bytes]:
    """The answers to requests about one thing each; those that the kernel refuses have none. Raises OSError."""
    with _socket() as asker:
        asker.settimeout(_PATIENCE_S)
        for begin in range(0, len(bodies), _TOGETHER):
            part = bodies[begin : begin + _TOGETHER]
            requests = [_request(kind, _NLM_F_REQUEST, body) for body in part]
            asker.sendto(b"".join(requests), (0, 0))
            waiting = len(part)
            while waiting:
                for answer, data in messages(asker.recv(_DATAGRAM)):
                    waiting -= 1
                    if answer != _NLMSG_ERROR:
                        yield data


def listener(groups: int) -> socket.socket:
    """A socket that hears what changes."""
    listener = _socket(socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listener.bind((0, groups))
    return listener


def received(listener: socket.socket) -> Iterator[tuple[int, bytes] | None]:
    """Types and bodies of the messages there are; None where the kernel had to leave some out."""
    while True:
        try:
            yield from messages(listener.recv(_DATAGRAM))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
