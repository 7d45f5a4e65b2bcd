# SPDX-License-Identifier: Apache-2.0
"""Closes flows that have become idle without a FIN or RST, as ePPing's garbage collection does.

The program keeps the state of each flow in an LRU hash map, in which the entry of an idle flow may stay for ever. Each
call of IdleFlowCloser.close_idle() scans the map and deletes idle flows. If a direction of a deleted flow was reported
as open, close_idle() returns an event which reports that the direction is closed. The rules are the same as in ePPing:
see is_flow_old() and flowmap_cleanup() in pping/pping_kern.c.
"""

import socket
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.events.ring_buffer import CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION, Events
from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.collector import EppingCollector

_SECOND = 1_000_000_000
LIFETIME_NS = 300 * _SECOND
ECHO_LIFETIME_NS = 30 * _SECOND
UNANSWERED_LIFETIME_NS = 30 * _SECOND

# enum event_flow_state, bpf/events.h
_WAITING, _OPEN = 1, 2


class IdleFlowCloser:
    """Closes the idle flows of a program that was built with events.

    `dtype` is EventReader.dtype, the numpy type of an event.
    """

    def __init__(self, collector: EppingCollector, dtype: np.dtype[Any]) -> None:
        watched = collector.program.maps["event_flows"]
        assert watched.layout is not None
        assert watched.key_layout is not None
        self._fd = watched.fd
        self._key = map_array.dtype_of(watched.key_layout)
        self._value = map_array.dtype_of(watched.layout)
        self._dtype = dtype
        self._collector = collector  # this reference keeps the map's descriptor open

    def close_idle(self, now_ns: int) -> Events:
        """Deletes all flows that are idle at `now_ns` on the program's clock, and returns their closing events.

        The events have the shape (events,). The events are sorted by flow key, because the order of the map's entries
        changes whenever the program is loaded.
        """
        found = []
        for keys, values in libbpf.map_batches(self._fd, self._key, self._value):
            idle, opened = _find_idle(keys["protocol"], values["half"], now_ns)
            deleted = np.array([libbpf.map_delete(self._fd, key.tobytes()) for key in keys[idle]], bool)
            found.append((keys[idle][deleted], opened[idle][deleted]))
        keys, opened = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(keys.view(f"V{self._key.itemsize}"))
        return self._closing_events(keys[order], opened[order], now_ns)

    def _closing_events(self, keys: npt.NDArray[Any], opened: npt.NDArray[np.bool_], now_ns: int) -> Events:
        """Returns a closing event for each direction that was reported as open; `opened` has the shape (flows, 2).

        Column 0 of `opened` is for packets from the internal endpoint to the external endpoint. The source of a closing
        event is the endpoint that received the packets of the closed direction. Similarly, the source of an RTT event
        is the endpoint that replied.
        """
        rows, halves = np.nonzero(opened)
        flows = keys["flow"][rows]
        events = np.zeros(len(rows), self._dtype)
        events["time_ns"] = now_ns
        for half, sender, receiver in ((0, "internal", "external"), (1, "external", "internal")):
            of_half = halves == half
            events["source"][of_half], events["source_port"][of_half] = (
                flows[receiver][of_half],
                flows[f"{receiver}_port"][of_half],
            )
            events["destination"][of_half] = flows[sender][of_half]
            events["destination_port"][of_half] = flows[f"{sender}_port"][of_half]
        events["type"], events["reason"], events["trigger"] = CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION
        events["protocol"], events["family"] = keys["protocol"][rows], flows["family"]
        return events


def _find_idle(
    protocol: npt.NDArray[Any], halves: npt.NDArray[Any], now_ns: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Returns two masks.

    The first mask, with the shape (flows,), marks idle flows. The second mask, with the shape (flows, 2), marks the
    directions that were reported as open.
    """
    state = halves["state"]
    # If a packet arrived after the clock was read, `last_ns` is later than `now_ns`.
    age_ns = np.where(halves["last_ns"] < now_ns, now_ns - halves["last_ns"], 0)
    echo = np.isin(protocol, (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6))
    lifetime_ns = np.where(echo[:, None], ECHO_LIFETIME_NS, LIFETIME_NS)
    lifetime_ns = np.where(state == _WAITING, UNANSWERED_LIFETIME_NS, lifetime_ns)
    active = ((state == _WAITING) | (state == _OPEN)) & (age_ns <= lifetime_ns)
    return ~active.any(1), (state == _OPEN) & (protocol != socket.IPPROTO_UDP)[:, None]
