# SPDX-License-Identifier: Apache-2.0
"""Qdiscs and filters of an interface, as tc(8) shows them."""

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
_PARENTS = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}  # of a filter on a clsact qdisc
_CLSACT = 0xFFFFFFF1  # the parent of a clsact qdisc, and of an ingress qdisc, which has the same place

_TC = struct.Struct("=BxxxiIII")  # tcmsg: family, index, handle, parent, priority << 16 | protocol


@dataclass(frozen=True)
class Filter:
    """A filter on a clsact qdisc; `name` and `program`, its id, are those of a BPF program, or '' and 0.

    A packet begins in chain 0, and meets the filters there in the order in which the kernel lists them. `protocol` is
    an EtherType, ETH_P_ALL (3) for all. A list of filters has a head, which looks like a filter with the handle 0.
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
    """The filters of any kind on an interface's clsact qdisc, if it has one; `direction` is ingress or egress."""
    for body in messages.dump(_RTM_GETTFILTER, _TC.pack(socket.AF_UNSPEC, ifindex, 0, _PARENTS[direction], 0)):
        _, _, handle, _, info = _TC.unpack_from(body)
        attributes = dict(messages.attributes(body[_TC.size :]))
        kind = messages.text_of(attributes.get(_TCA_KIND, b""))
        options = dict(messages.attributes(attributes.get(_TCA_OPTIONS, b""))) if kind == "bpf" else {}
        name = messages.text_of(options.get(_TCA_BPF_NAME, b""))
        program = int.from_bytes(options.get(_TCA_BPF_ID, b""), sys.byteorder)
        chain = int.from_bytes(attributes.get(_TCA_CHAIN, b""), sys.byteorder)
        yield Filter(direction, kind, info >> 16, socket.ntohs(info & 0xFFFF), chain, handle, name, program)


def ingress_qdisc(ifindex: int) -> str:
    """The kind of the qdisc that an interface has for what comes in: clsact, ingress, or '' if it has none."""
    for body in messages.dump(_RTM_GETQDISC, _TC.pack(socket.AF_UNSPEC, ifindex, 0, 0, 0)):
        _, index, _, parent, _ = _TC.unpack_from(body)
        if (index, parent) == (ifindex, _CLSACT):
            return messages.text_of(dict(messages.attributes(body[_TC.size :])).get(_TCA_KIND, b""))
    return ""


class FilterChanges:
    """Which interfaces had a change of their qdiscs or filters from now on."""

    def __init__(self) -> None:
        self._socket = messages.listener(_RTMGRP_TC)

    def read(self) -> set[int] | None:
        """The indexes of the interfaces; None where the kernel had to leave some out."""
        found: set[int] = set()
        missed = False
        for message in messages.received(self._socket):
            if message is None:
                missed = True
            else:
                found.add(_TC.unpack_from(message[1])[1])
        return None if missed else found

    def close(self) -> None:
        """No more of it."""
        self._socket.close()
