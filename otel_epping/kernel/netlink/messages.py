# SPDX-License-Identifier: Apache-2.0
"""Messages of rtnetlink(7) and their attributes: requests, dumps, and notifications of changes.

A message consists of a header, a struct that depends on the message type, and attributes. Numbers are in the machine's
byte order. This file implements only the functions that links.py, routes.py and traffic_control.py need. The package
pyroute2 implements the whole protocol, but the import of pyroute2 takes 10 MB of memory and 80 ms. The import of all
our settings takes less memory and time than the import of pyroute2.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

from otel_epping.process.escaping import escaped

# linux/netlink.h
_NLM_F_REQUEST, _NLM_F_REQUEST_DUMP = 0x001, 0x001 | 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLA_TYPE_MASK = 0x3FFF
_MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = struct.Struct("=HH")

_DATAGRAM = 1 << 16
# Maximum number of requests in a datagram. The answers to all requests of a datagram must fit into the socket's buffer.
_MAX_REQUESTS = 32
_TIMEOUT_S = 1.0
# The size of the buffer for notifications, in bytes. The kernel limits the size to net.core.rmem_max.
_LISTENER_BUFFER = 1 << 20


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (type, value) of each attribute in `data`."""
    at = 0
    while at + ATTRIBUTE.size <= len(data):
        length, kind = ATTRIBUTE.unpack_from(data, at)
        if length < ATTRIBUTE.size:
            return
        yield kind & _NLA_TYPE_MASK, data[at + ATTRIBUTE.size : at + length]
        at += length + 3 & ~3


def messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields (type, body) of each message in a datagram."""
    at = 0
    while at + _MESSAGE.size <= len(data):
        length, kind = _MESSAGE.unpack_from(data, at)[:2]
        yield kind, data[at + _MESSAGE.size : at + length]
        at += max(length + 3 & ~3, _MESSAGE.size)


def decode_text(value: bytes) -> str:
    """Returns the text of an attribute, escaped (process/escaping.py)."""
    return escaped(value.rstrip(b"\0"))


def _socket(flags: int = 0) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags, socket.NETLINK_ROUTE)


def _request(kind: int, flags: int, body: bytes) -> bytes:
    return _MESSAGE.pack(_MESSAGE.size + len(body), kind, flags, 0, 0) + body


def dump(kind: int, body: bytes) -> Iterator[bytes]:
    """Sends a dump request of the type `kind`. Yields the body of each message in the answer. Raises OSError."""
    with _socket() as sock:
        sock.sendto(_request(kind, _NLM_F_REQUEST_DUMP, body), (0, 0))
        while True:
            for answer, data in messages(sock.recv(_DATAGRAM)):
                if answer == _NLMSG_DONE:
                    return
                if answer == _NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data)[0]
                    raise OSError(code, os.strerror(code))
                yield data


def request(kind: int, bodies: Sequence[bytes]) -> Iterator[bytes]:
    """Sends requests of the type `kind`. Each request is for one object. Yields the body of each answer.

    For a request that the kernel refuses, no body is yielded. Raises OSError.
    """
    with _socket() as sock:
        sock.settimeout(_TIMEOUT_S)
        for begin in range(0, len(bodies), _MAX_REQUESTS):
            requests = [_request(kind, _NLM_F_REQUEST, body) for body in bodies[begin : begin + _MAX_REQUESTS]]
            sock.sendto(b"".join(requests), (0, 0))
            pending = len(requests)
            while pending:
                for answer, data in messages(sock.recv(_DATAGRAM)):
                    pending -= 1
                    if answer != _NLMSG_ERROR:
                        yield data


def open_listener(groups: int) -> socket.socket:
    """Opens a socket that receives notifications. `groups` is a mask of RTMGRP_* (linux/rtnetlink.h)."""
    listener = _socket(socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _LISTENER_BUFFER)
    listener.bind((0, groups))
    return listener


def receive(listener: socket.socket) -> Iterator[tuple[int, bytes] | None]:
    """Yields (type, body) of each notification that has arrived.

    Yields None if the kernel has dropped notifications (ENOBUFS).
    """
    while True:
        try:
            yield from messages(listener.recv(_DATAGRAM))
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
