# SPDX-License-Identifier: Apache-2.0
"""Feeds packets of a capture to the kernel program, which takes them for the traffic of an interface.

BPF_PROG_TEST_RUN runs a loaded program in the kernel, on bytes that we give it, in 2.5 us a packet. Built with
`packet_clock`, the program takes its time from the packet, too. So nothing in the kernel knows that the packets are
old, and what it measures is what it would have measured then.

What a test run asks for (net/bpf/test_run.c):
- more than an Ethernet header, of IP all of the fixed header, and no more than fits into a page with what the kernel
  puts around it;
- a `wire_len` from the length of these bytes up to GSO_LEGACY_MAX_SIZE;
- the index of an interface that is there: all packets are of number 1, the loopback interface of each network
  namespace, which is attached to nothing and only lends its number.
"""

import ctypes
import os
from dataclasses import replace
from itertools import repeat

import numpy as np
import numpy.typing as npt

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.interfaces import ETHERNET_HEADER_BYTES, Interface, Role
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig

Int64Array = npt.NDArray[np.int64]

CAPTURE = Interface("capture", 1, ETHERNET_HEADER_BYTES)
ENTRY_POINT = "epping_ingress"
MIN_FRAME_BYTES = 15
# By EtherType; older kernels take less.
_MIN_FRAME_BYTES = {0x0800: 34, 0x86DD: 54}
# Room for all headers that the program looks at; the kernel would take some 600 bytes more.
MAX_FRAME_BYTES = 3072
MAX_WIRE_LENGTH = 65_536
# The mark that the program gives a malformed packet (bpf/config.h).
MALFORMED_MARK = 1
# The program takes 0 for "never".
UNTIMED_NS = 0

# What a test run takes of struct __sk_buff (linux/bpf.h), and struct bpf_test_run_opts of libbpf.
SKB = np.dtype(
    {
        "names": ["ifindex", "tstamp", "wire_len", "gso_segs"],
        "formats": [np.uint32, np.uint64, np.uint32, np.uint32],
        "offsets": [40, 152, 160, 164],
        "itemsize": 192,
    }
)
# What is looked at of the struct __sk_buff that a run leaves behind, with room for what later kernels write.
MARKED = np.dtype({"names": ["mark"], "formats": [np.uint32], "offsets": [8], "itemsize": 256})
OPTIONS = np.dtype(
    [
        ("sz", np.uint64),
        ("data_in", np.uint64),
        ("data_out", np.uint64),
        ("data_size_in", np.uint32),
        ("data_size_out", np.uint32),
        ("ctx_in", np.uint64),
        ("ctx_out", np.uint64),
        ("ctx_size_in", np.uint32),
        ("ctx_size_out", np.uint32),
        ("retval", np.uint32),
        ("repeat", np.int32),
        ("duration", np.uint32),
        ("flags", np.uint32),
        ("cpu", np.uint32),
        ("batch_size", np.uint32),
    ]
)

_FRAMES = 4096


class ProgTestRuns:
    """Room for test runs, one row each: `options` and `contexts`, arrays of OPTIONS and SKB with what never changes.

    Before a run, a row needs its data_in and data_size_in, and data_size_out of 0: the kernel writes the size of the
    packet there, which would be a limit for the next one.

    After a run, `marked` has the contexts of the rows given to request_marks(), as the program left them.
    """

    def __init__(self, program_fd: int, rows: int) -> None:
        self.contexts, self.marked = np.zeros(rows, SKB), np.zeros(rows, MARKED)
        self.contexts["ifindex"] = CAPTURE.ifindex
        self.options = np.zeros(rows, OPTIONS)
        self.options["sz"] = OPTIONS.itemsize
        self.options["ctx_in"] = self.contexts.ctypes.data + SKB.itemsize * np.arange(rows)
        self.options["ctx_size_in"] = SKB.itemsize
        self.options["repeat"] = 1
        self._addresses: list[int] = (self.options.ctypes.data + OPTIONS.itemsize * np.arange(rows)).tolist()
        self._program_fd = program_fd
        self._watching = False
        self._run = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_prog_test_run_opts
        self._run.argtypes = [ctypes.c_int, ctypes.c_void_p]

    def request_marks(self, which: npt.NDArray[np.bool_]) -> None:
        """Has the kernel write back the contexts of some of the first rows; it takes a twentieth of a run."""
        if not self._watching and not which.any():
            return
        self._watching = True
        rows = len(which)
        addresses = self.marked.ctypes.data + MARKED.itemsize * np.arange(rows)
        self.options["ctx_out"][:rows] = np.where(which, addresses, 0)
        self.options["ctx_size_out"][:rows] = np.where(which, MARKED.itemsize, 0)

    def run(self, rows: int = 1) -> None:
        """Runs the program on the first rows, in order. Raises OSError where the kernel refuses one."""
        if any(map(self._run, repeat(self._program_fd), self._addresses[:rows])):  # no line of Python for each
            code = ctypes.get_errno()
            raise OSError(code, f"BPF_PROG_TEST_RUN: {os.strerror(code)}")


def _have_headers(buffer: npt.NDArray[np.uint8], starts: Int64Array, captured: Int64Array) -> npt.NDArray[np.bool_]:
    """Which frames a test run takes."""
    whole = captured >= MIN_FRAME_BYTES
    short = np.flatnonzero(whole & (captured < max(_MIN_FRAME_BYTES.values())))
    protocol = buffer[starts[short] + 12].astype(np.int64) << 8 | buffer[starts[short] + 13]
    for ethertype, least in _MIN_FRAME_BYTES.items():
        whole[short[(protocol == ethertype) & (captured[short] < least)]] = False
    return whole


class Replayer(EppingCollector):
    """A collector whose only traffic is what it is fed.

    started_ns     time of the earliest packet; 1 before there is one
    latest_ns      time of the latest packet; 0 before there is one
    too_short      packets that end within the headers of link or network, which the program never saw
    cut_too_short  those of them that were longer, but for the snap length
    cut_malformed  packets that the program counts as malformed, but whose headers the snap length cut off
    too_long       packets counted as shorter than they are, of MAX_WIRE_LENGTH
    untimed        packets without a time
    steps_back     packets earlier than the one before them; `step_back_ns` is by how much at the most
    """

    def __init__(self, config: EppingConfig) -> None:
        super().__init__(replace(config, packet_clock=True, copies=True))
        self.attachments.register(CAPTURE, Role.CAPTURE)
        self.started_ns, self.latest_ns = 1, 0
        self.too_short = self.too_long = self.untimed = 0
        self.cut_too_short = self.cut_malformed = 0
        self.steps_back = self.step_back_ns = 0
        self._before_ns = 0
        self._runs = ProgTestRuns(self.program.entry_points[ENTRY_POINT], _FRAMES)

    def now_ns(self) -> int:
        """It is always the time of the latest packet."""
        return self.latest_ns

    def feed(
        self,
        buffer: npt.NDArray[np.uint8],
        starts: Int64Array,
        captured: Int64Array,
        original: Int64Array,
        times_ns: Int64Array,
    ) -> None:
        """Runs the program on Ethernet frames, in order; arrays have one row for each.

        Frames begin in the buffer at `starts`; `captured` of their `original` bytes are there. Times are Unix time;
        UNTIMED_NS is none: such a frame is counted, and neither begins nor ends an RTT. Nor does one that is earlier
        than what it answers. Raises EppingError if the kernel refuses.
        """
        self._look_at_times(times_ns)
        whole = _have_headers(buffer, starts, captured)
        if not whole.all():
            self.too_short += int(np.count_nonzero(~whole))
            self.cut_too_short += int(np.count_nonzero(~whole & (captured < original)))
            starts, captured, original, times_ns = (rows[whole] for rows in (starts, captured, original, times_ns))
        self.too_long += int(np.count_nonzero(original > MAX_WIRE_LENGTH))
        sizes = np.minimum(captured, MAX_FRAME_BYTES)
        cut = captured < original
        wire_lengths = np.minimum(np.maximum(original, captured), MAX_WIRE_LENGTH)
        addresses = buffer.ctypes.data + starts
        try:
            for begin in range(0, len(starts), _FRAMES):
                part = slice(begin, begin + _FRAMES)
                self._runs.request_marks(cut[part])
                self._run(addresses[part], sizes[part], wire_lengths[part], times_ns[part])
                marks = self._runs.marked["mark"][np.flatnonzero(cut[part])]
                self.cut_malformed += int(np.count_nonzero(marks == MALFORMED_MARK))
        except OSError as error:
            raise EppingError(f"the kernel refuses to run the program on a packet ({error.strerror})") from error

    def _look_at_times(self, times_ns: Int64Array) -> None:
        timed = times_ns[times_ns != UNTIMED_NS]
        self.untimed += len(times_ns) - len(timed)
        if not len(timed):
            return
        steps_ns = np.diff(timed, prepend=self._before_ns)
        self._before_ns = int(timed[-1])
        self.steps_back += int(np.count_nonzero(steps_ns < 0))
        self.step_back_ns = max(self.step_back_ns, -int(steps_ns.min()))
        earliest_ns = int(timed.min())
        self.started_ns = min(self.started_ns, earliest_ns) if self.latest_ns else earliest_ns
        self.latest_ns = max(self.latest_ns, int(timed.max()))

    def _run(self, addresses: Int64Array, sizes: Int64Array, wire_lengths: Int64Array, times_ns: Int64Array) -> None:
        rows = len(addresses)
        options, contexts = self._runs.options[:rows], self._runs.contexts[:rows]
        options["data_in"], options["data_size_in"], options["data_size_out"] = addresses, sizes, 0
        contexts["tstamp"], contexts["wire_len"] = times_ns, wire_lengths
        self._runs.run(rows)
