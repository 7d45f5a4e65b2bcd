# SPDX-License-Identifier: Apache-2.0
"""Qdiscs and filters of interfaces (tc(8))."""

import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from otel_epping.kernel.netlink import messages

# linux/rtnetlink.h, linux/pkt_sched.h, linux/pkt_cls.h
_RTM_GETQDISC, _RTM_GETTFILTER = 38, 46
_RTMGRP_TC = 0x8
_TCA_KIND, _TCA_OPTIONS, _TCA_CHAIN = 1, 2, 11
_TCA_BPF_NAME, _TCA_BPF_ID = 7, 11
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # The parents of filters on a clsact qdisc.
# The parent of a clsact or ingress qdisc. An interface cannot have both a clsact qdisc and an ingress qdisc.
_CLSACT = 0xFFFFFFF1

_TC = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, priority << 16 | protocol


@dataclass(frozen=True)
class Filter:
    """A filter on a clsact qdisc.

    direction  ingress or egress
    kind       the kind of filter, such as bpf or flower
    priority   filters with a lower priority number run first; tc(8) calls this number pref
    protocol   an EtherType; ETH_P_ALL (3) for all protocols
    chain      the number of the chain. Packets start in chain 0, and pass the filters of a chain in the order in which
               the kernel lists them
    handle     a number that is unique among the filters of the priority. Handle 0 is not a filter, but the head of a
               list of filters
    name       the name of the BPF program; '' for other kinds of filters
    program    the id of the BPF program; 0 for other kinds of filters
    """

    direction: str
    kind: str
    priority: int
    protocol: int
    chain: int
    handle: int
    name: str
    program: int


def filters(ifindex: int, direction: str) -> Iterator[Filter]:
    """Yields the filters on an interface's clsact qdisc, and the heads of the lists of filters.

    Yields nothing if the interface has no clsact qdisc. Raises OSError.
    """
    for body in messages.dump(_RTM_GETTFILTER, _TC.pack(socket.AF_UNSPEC, ifindex, 0, _PARENTS[direction], 0)):
        _, _, handle, _, info = _TC.unpack_from(body)
        attributes = dict(messages.attributes(body[_TC.size :]))
        kind = messages.decode_text(attributes.get(_TCA_KIND, b""))
        options = dict(messages.attributes(attributes.get(_TCA_OPTIONS, b""))) if kind == "bpf" else {}
        name = messages.decode_text(options.get(_TCA_BPF_NAME, b""))
        program = int.from_bytes(options.get(_TCA_BPF_ID, b""), sys.byteorder)
        chain = int.from_bytes(attributes.get(_TCA_CHAIN, b""), sys.byteorder)
        yield Filter(direction, kind, info >> 16, socket.ntohs(info & 0xFFFF), chain, handle, name, program)


def ingress_qdisc(ifindex: int) -> str:
    """Returns the kind of an interface's qdisc for incoming packets: "clsact" or "ingress".

    Returns '' if the interface has neither a clsact nor an ingress qdisc. Raises OSError.
    """
    for body in messages.dump(_RTM_GETQDISC, _TC.pack(socket.AF_UNSPEC, ifindex, 0, 0, 0)):
        _, index, _, parent, _ = _TC.unpack_from(body)
        if (index, parent) == (ifindex, _CLSACT):
            return messages.decode_text(dict(messages.attributes(body[_TC.size :])).get(_TCA_KIND, b""))
    return ""


class FilterChanges:
    """Receives notifications about changed qdiscs and filters. Raises OSError if no socket can be opened."""

    def __init__(self) -> None:
        self._socket = messages.open_listener(_RTMGRP_TC)

    def read(self) -> set[int] | None:
        """Returns the indexes of the interfaces whose qdiscs or filters have changed since the last call.

        Returns None if the kernel has dropped messages.
        """
        changed: set[int] = set()
        dropped = False
        for message in messages.receive(self._socket):
            if message is None:
                dropped = True
            else:
                changed.add(_TC.unpack_from(message[1])[1])
        return None if dropped else changed

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
