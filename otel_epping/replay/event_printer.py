# SPDX-License-Identifier: Apache-2.0
"""Prints RTTs and flow events during a replay, for `replay --events`."""

import sys

import numpy as np

from otel_epping.events.formats import EventWriter
from otel_epping.events.idle_flows import IdleFlowCloser
from otel_epping.events.ring_buffer import EventReader
from otel_epping.networks.pseudonyms import Show
from otel_epping.replay.capture import PacketBatch
from otel_epping.replay.capture.packet_batch import UNTIMED_NS
from otel_epping.replay.replayer import Replayer

# Minimum time between two checks for idle flows, according to the timestamps of the packets. A check takes 1 ms.
_IDLE_CHECK_INTERVAL_NS = 10_000_000_000


class EventPrinter:
    """Feeds packets to the kernel program, and writes the events of the program to standard output after each batch.

    The events and the order of the events depend only on the packets, and not on the sizes of the batches. For this
    purpose, the class checks for idle flows before the first packet that is at least _IDLE_CHECK_INTERVAL_NS later than
    the last check. The time of this packet becomes the time of the check. `format` is one of events.formats.FORMATS.
    `show` returns the text to print for an address.
    """

    def __init__(self, replayer: Replayer, format: str, show: Show) -> None:
        self._replayer = replayer
        self._reader = EventReader(replayer)
        self._idle_flows = IdleFlowCloser(replayer, self._reader.dtype)
        self._next_check_ns = UNTIMED_NS + 1
        self._writer = EventWriter(format, sys.stdout, lambda time_ns: time_ns, show)

    @property
    def lost(self) -> int:
        """Number of events for which the ring buffer had no space."""
        return self._reader.lost

    def feed(self, batch: PacketBatch) -> None:
        """Runs the program on the packets, and writes the events of these packets."""
        begin = 0
        while begin < len(batch):
            due = np.flatnonzero(batch.times_ns[begin:] >= self._next_check_ns)
            end = begin + int(due[0]) if len(due) else len(batch)
            self._replayer.feed(batch.take(slice(begin, end)))
            self._writer.write(self._reader.read())
            if len(due):
                now_ns = int(batch.times_ns[end])
                self._writer.write(self._idle_flows.close_idle(now_ns))
                self._next_check_ns = now_ns + _IDLE_CHECK_INTERVAL_NS
            begin = end
        sys.stdout.flush()

    def close(self) -> None:
        """Writes the text that the output format requires after the last event. Does not close standard output."""
        self._writer.close()
        sys.stdout.flush()
