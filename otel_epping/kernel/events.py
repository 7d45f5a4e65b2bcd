# SPDX-License-Identifier: Apache-2.0
"""The program's events, one by one: each round-trip time, and each flow that opens or closes.

Only a program built with `KernelConfig(events=True)` tells them, by a ring buffer that this module reads. The ring is
memory that user space maps: a page with the reader's place, a page with the program's, and the records, mapped twice
over so that none is torn at the end (kernel/bpf/ringbuf.c in Linux). All records are of one size, so all that waits is
one numpy array, and reading it costs no system call.
"""

import mmap
import os
import select
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import libbpf, memory
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.errors import EppingError

Events = npt.NDArray[Any]
"""Records of `struct event` (bpf/events.h), in the order in which they were put."""

# enum event_type, reason and trigger of bpf/events.h
RTT, OPENING, CLOSING = range(3)
FLOW_TIMEOUT = 6
GARBAGE_COLLECTION = 2

# Of a record's header, linux/bpf.h
_BUSY = 1 << 31
_DISCARDED = 1 << 30
_HEADER_BYTES = 8


class EventReader:
    """The one reader of a program's events. Raises EppingError if the program was built without them."""

    def __init__(self, collector: Collector) -> None:
        maps = collector.program.maps
        if "events" not in maps:
            raise EppingError("the program was built without events")
        layout = maps["event_buffer"].layout
        assert layout is not None
        self.dtype = memory.dtype_of(layout)
        self._none = np.zeros(0, self.dtype)
        size = self.dtype.itemsize
        # Copied as opaque bytes, which numpy does at once, and not field by field.
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
        self._size = memory.map_info(fd)["max_entries"]
        self._read_to = memoryview(mmap.mmap(fd, page)).cast("Q")
        self._ring = mmap.mmap(fd, page + 2 * self._size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._written_to = memoryview(self._ring).cast("Q")
        self._page = page
        self._collector = collector  # keeps the map's descriptor open
        self._lost_fd = maps["events_lost"].fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._barrier = threading.Lock()

    def read(self) -> Events:
        """All that waits, taken out of the ring; without waiting. Shape (events,)."""
        begin, end = self._read_to[0], self._written_to[0]
        if begin == end:
            return self._none
        count = (end - begin) // self._records.itemsize
        records = np.ndarray(count, self._records, self._ring, self._page + begin % self._size)
        headers = records["header"].copy()
        busy = np.flatnonzero(headers & _BUSY)
        if len(busy):  # another CPU is still writing this one
            count = int(busy[0])
            headers = headers[:count]
        # A lock's memory barrier: where the machine reorders reads, no event is read before its header.
        with self._barrier:
            kept = records["event"][:count][headers & _DISCARDED == 0]
        with self._barrier:
            self._read_to[0] = begin + count * self._records.itemsize
        events: Events = kept.view(self.dtype)
        return events

    def wait(self, timeout_s: float) -> bool:
        """Waits until there is something to read; whether there is."""
        return bool(self._poll.poll(timeout_s * 1000))

    @property
    def lost(self) -> int:
        """How many events found no room in the ring, since the program was loaded."""
        value = libbpf.map_lookup(self._lost_fd, np.uint32(0).tobytes(), 8)
        return int.from_bytes(value or b"", "little")
