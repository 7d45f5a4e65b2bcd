# SPDX-License-Identifier: Apache-2.0
"""Reads individual events from the program's ring buffer: each RTT, and each flow that opens or closes.

Only a program built with `EppingConfig(events=True)` writes events. The ring buffer consists of a page with the
reader's position, a page with the program's position, and the records. User space maps both pages and the records. The
records are mapped twice in sequence, so that no record is split at the end of the ring (kernel/bpf/ringbuf.c in Linux).
All records have the same size, so all unread records together are one numpy array. To read the records, no system call
is needed.
"""

import mmap
import os
import select
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.collector import EppingCollector

Events = npt.NDArray[Any]
"""Records of `struct event` (bpf/events.h), in the order in which the program wrote them; shape (events,)."""

# enum event_type of bpf/events.h.
RTT, OPENING, CLOSING = range(3)
# FLOW_TIMEOUT is an additional value of enum event_reason. GARBAGE_COLLECTION is an additional value of enum
# event_trigger. Only user space uses FLOW_TIMEOUT and GARBAGE_COLLECTION.
FLOW_TIMEOUT = 6
GARBAGE_COLLECTION = 2

# Flags and size of a record header, linux/bpf.h
_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER_BYTES = 8


class EventReader:
    """Reads the events of a program. Raises EppingError if the program was built without events.

    A program can have only one reader. `dtype` is the numpy type of an event.
    """

    def __init__(self, collector: EppingCollector) -> None:
        maps = collector.program.maps
        if "events" not in maps:
            raise EppingError("the program was built without events")
        layout = maps["event_buffer"].layout
        assert layout is not None
        self.dtype = map_array.dtype_of(layout)
        self._no_events = np.zeros(0, self.dtype)
        size = self.dtype.itemsize
        # The type of an event is opaque in this dtype. numpy copies an opaque item in one operation, but copies a
        # structured item field by field.
        self._records = np.dtype(
            {
                "names": ["header", "event"],
                "formats": [np.uint32, f"V{size}"],
                "offsets": [0, _HEADER_BYTES],
                "itemsize": _HEADER_BYTES + -(-size // 8) * 8,
            }
        )
        fd = maps["events"].fd
        page = os.sysconf("SC_PAGE_SIZE")
        self._size = map_array.map_info(fd)["max_entries"]
        self._read_to = memoryview(mmap.mmap(fd, page)).cast("Q")
        self._ring = mmap.mmap(fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._written_to = memoryview(self._ring).cast("Q")
        self._page = page
        self._collector = collector  # this reference keeps the map's descriptor open
        self._lost_fd = maps["events_lost"].fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._barrier = threading.Lock()

    def read(self) -> Events:
        """Removes all unread events from the ring and returns them, shape (events,). Does not wait."""
        begin, end = self._read_to[0], self._written_to[0]
        if begin == end:
            return self._no_events
        count = (end - begin) // self._records.itemsize
        records = np.ndarray(count, self._records, self._ring, self._page + begin % self._size)
        headers = records["header"].copy()
        busy = np.flatnonzero(headers & _BUSY)
        if len(busy):  # another CPU is still writing this record
            count = int(busy[0])
            headers = headers[:count]
        # The lock serves as a memory barrier: a CPU that reorders reads must not read an event before it reads the
        # event's header.
        with self._barrier:
            kept = records["event"][:count][headers & _DISCARDED == 0]
        with self._barrier:
            self._read_to[0] = begin + count * self._records.itemsize
        events: Events = kept.view(self.dtype)
        return events

    def wait(self, timeout_s: float) -> bool:
        """Waits up to `timeout_s` for an unread event; returns whether the ring has an unread event."""
        return bool(self._poll.poll(timeout_s * 1000))

    @property
    def lost(self) -> int:
        """Number of events that were lost since the program was loaded, because the ring was full."""
        value = libbpf.map_lookup(self._lost_fd, np.uint32(0).tobytes(), 8)
        return int.from_bytes(value or b"", "little")
