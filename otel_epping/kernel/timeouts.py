# SPDX-License-Identifier: Apache-2.0
"""Flows that ended without a word: ePPing finds them by garbage collection and reports them closed, and so do we.

The program keeps what it knows of a flow in an LRU hash, where it may stay for ever. Here all of it is looked through
now and then; flows that have been silent for too long are taken out, and each of their directions that was reported
open is reported closed. The rules are ePPing's: is_flow_old() and flowmap_cleanup() of pping/pping_kern.c.
"""

import socket
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import libbpf, memory
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.events import CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION, Events

_SECOND = 1_000_000_000
LIFETIME_NS = 300 * _SECOND
ECHO_LIFETIME_NS = 30 * _SECOND
UNANSWERED_LIFETIME_NS = 30 * _SECOND

# enum event_flow_state, bpf/events.h
_WAITING, _OPEN = 1, 2


class Timeouts:
    """Closes the silent flows of a program that reports events; `dtype` is that of the events."""

    def __init__(self, collector: Collector, dtype: np.dtype[Any]) -> None:
        watched = collector.program.maps["event_flows"]
        assert watched.layout is not None
        assert watched.key_layout is not None
        self._fd = watched.fd
        self._key = memory.dtype_of(watched.key_layout)
        self._value = memory.dtype_of(watched.layout)
        self._dtype = dtype
        self._collector = collector  # keeps the map's descriptor open

    def close_idle(self, now_ns: int) -> Events:
        """Takes out all flows that are silent at `now_ns` (the program's clock); returns the events that tell of it.

        Events are in the order of the flows' keys: the map's own order is another for each program.
        """
        found = []
        for keys, values in libbpf.map_batches(self._fd, self._key, self._value):
            over, opened = _judge(keys["protocol"], values["half"], now_ns)
            deleted = np.array([libbpf.map_delete(self._fd, key.tobytes()) for key in keys[over]], bool)
            found.append((keys[over][deleted], opened[over][deleted]))
        keys, opened = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(keys.view(f"V{self._key.itemsize}"))
        return self._closings(keys[order], opened[order], now_ns)

    def _closings(self, keys: npt.NDArray[Any], opened: npt.NDArray[np.bool_], now_ns: int) -> Events:
        """What one endpoint sent, half 0 the internal one, is told backwards: as what came back, from the other."""
        rows, halves = np.nonzero(opened)
        flows = keys["flow"][rows]
        events = np.zeros(len(rows), self._dtype)
        events["time_ns"] = now_ns
        for half, sender, receiver in ((0, "internal", "external"), (1, "external", "internal")):
            its = halves == half
            events["source"][its], events["source_port"][its] = flows[receiver][its], flows[f"{receiver}_port"][its]
            events["destination"][its] = flows[sender][its]
            events["destination_port"][its] = flows[f"{sender}_port"][its]
        events["type"], events["reason"], events["trigger"] = CLOSING, FLOW_TIMEOUT, GARBAGE_COLLECTION
        events["protocol"], events["family"] = keys["protocol"][rows], flows["family"]
        return events


def _judge(
    protocol: npt.NDArray[Any], halves: npt.NDArray[Any], now_ns: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which flows are over, shape (flows,), and which of their directions had been reported open, (flows, 2)."""
    state = halves["state"]
    # A packet may have come since the clock was read.
    age_ns = np.where(halves["last_ns"] < now_ns, now_ns - halves["last_ns"], 0)
    echo = np.isin(protocol, (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6))
    lifetime_ns = np.where(echo[:, None], ECHO_LIFETIME_NS, LIFETIME_NS)
    lifetime_ns = np.where(state == _WAITING, UNANSWERED_LIFETIME_NS, lifetime_ns)
    alive = ((state == _WAITING) | (state == _OPEN)) & (age_ns <= lifetime_ns)
    return ~alive.any(1), (state == _OPEN) & (protocol != socket.IPPROTO_UDP)[:, None]
