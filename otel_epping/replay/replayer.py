# SPDX-License-Identifier: Apache-2.0
"""Feeds the packets of a capture to the kernel program, as if the packets arrived on an interface.

BPF_PROG_TEST_RUN runs a loaded program in the kernel on the bytes of a packet. One run takes 2.5 us. If the kernel
program is compiled with `packet_clock`, it uses the timestamp of each packet as the current time. So the program
measures the same RTTs as on the interface where the packets were captured.

A test run has these requirements (net/bpf/test_run.c):
- The packet is longer than an Ethernet header. An IP packet contains at least the whole fixed IP header.
- The packet, together with the space that the kernel reserves around it, fits into one page of memory.
- `wire_len` is at least the number of packet bytes in the test run, and at most GSO_LEGACY_MAX_SIZE.
- The interface index exists. All packets of a replay have the interface index 1, which is the loopback interface in
  each network namespace. The program is not attached to the loopback interface.
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
from otel_epping.networks.network import Networks
from otel_epping.replay.capture.packet_batch import UNTIMED_NS, Bytes, Int64Array, PacketBatch

CAPTURE = Interface("capture", 1, ETHERNET_HEADER_BYTES)
ENTRY_POINT = "epping_ingress"
MIN_FRAME_BYTES = 15
# Minimum length of a frame for each EtherType. Older kernels also accept shorter frames.
_MIN_BYTES_BY_ETHERTYPE = {0x0800: 34, 0x86DD: 54}
# Maximum length of a frame in a test run. Frames of this length contain all headers that the program reads. The kernel
# would also accept frames that are about 600 bytes longer.
MAX_FRAME_BYTES = 3072
MAX_WIRE_LENGTH = 65_536
# The program sets this mark on a malformed packet (bpf/config.h).
MALFORMED_MARK = 1
# The fields of struct __sk_buff (linux/bpf.h) that a test run uses.
_CONTEXT = np.dtype(
    {
        "names": ["ifindex", "tstamp", "wire_len", "gso_segs"],
        "formats": [np.uint32, np.uint64, np.uint32, np.uint32],
        "offsets": [40, 152, 160, 164],
        "itemsize": 192,
    }
)
# The field of struct __sk_buff that is read after a run. `itemsize` is larger than the struct of current kernels,
# because the struct of later kernels may be larger.
_MARKED_CONTEXT = np.dtype({"names": ["mark"], "formats": [np.uint32], "offsets": [8], "itemsize": 256})
# struct bpf_test_run_opts of libbpf.
_RUN_OPTIONS = np.dtype(
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

_MAX_RUNS = 4096


class ProgTestRuns:
    """The arguments for up to `rows` test runs of a program.

    Each run has one row in `options` (_RUN_OPTIONS) and in `contexts` (_CONTEXT). The constructor sets the constant
    fields. Before each run, the caller sets data_in and data_size_in of the row, and sets data_size_out to 0. In each
    run, the kernel writes the packet size into data_size_out. If data_size_out were not 0, the next run would use the
    packet size of the previous run as a limit.

    After a run, `marked` (_MARKED_CONTEXT) contains the contexts that the kernel returned for the rows selected by
    request_marks().
    """

    def __init__(self, program_fd: int, rows: int) -> None:
        self.contexts, self.marked = np.zeros(rows, _CONTEXT), np.zeros(rows, _MARKED_CONTEXT)
        self.contexts["ifindex"] = CAPTURE.ifindex
        self.options = np.zeros(rows, _RUN_OPTIONS)
        self.options["sz"] = _RUN_OPTIONS.itemsize
        self.options["ctx_in"] = self.contexts.ctypes.data + _CONTEXT.itemsize * np.arange(rows)
        self.options["ctx_size_in"] = _CONTEXT.itemsize
        self.options["repeat"] = 1
        self._addresses: list[int] = (self.options.ctypes.data + _RUN_OPTIONS.itemsize * np.arange(rows)).tolist()
        self._program_fd = program_fd
        self._has_requests = False
        self._run = ctypes.CDLL("libbpf.so.1", use_errno=True).bpf_prog_test_run_opts
        self._run.argtypes = [ctypes.c_int, ctypes.c_void_p]

    def request_marks(self, which: npt.NDArray[np.bool_]) -> None:
        """Makes the kernel write the context of row i into `marked` if `which[i]` is True.

        A run takes 5 % longer if the kernel writes the context.
        """
        if not self._has_requests and not which.any():
            return
        self._has_requests = True
        rows = len(which)
        addresses = self.marked.ctypes.data + _MARKED_CONTEXT.itemsize * np.arange(rows)
        self.options["ctx_out"][:rows] = np.where(which, addresses, 0)
        self.options["ctx_size_out"][:rows] = np.where(which, _MARKED_CONTEXT.itemsize, 0)

    def run(self, rows: int = 1) -> None:
        """Runs the program on the first `rows` rows, in order. Raises OSError if the kernel rejects a row."""
        # map() calls the function for all rows, and is faster than a loop in Python.
        if any(map(self._run, repeat(self._program_fd), self._addresses[:rows])):
            code = ctypes.get_errno()
            raise OSError(code, f"BPF_PROG_TEST_RUN: {os.strerror(code)}")


def _have_headers(buffer: Bytes, starts: Int64Array, captured: Int64Array) -> npt.NDArray[np.bool_]:
    """Returns an array with one value per frame. The value is True if the frame is long enough for a test run."""
    whole = captured >= MIN_FRAME_BYTES
    short = np.flatnonzero(whole & (captured < max(_MIN_BYTES_BY_ETHERTYPE.values())))
    protocol = buffer[starts[short] + 12].astype(np.int64) << 8 | buffer[starts[short] + 13]
    for ethertype, minimum in _MIN_BYTES_BY_ETHERTYPE.items():
        whole[short[(protocol == ethertype) & (captured[short] < minimum)]] = False
    return whole


class Replayer(EppingCollector):
    """A collector that measures only the packets passed to feed().

    started_ns     time of the earliest packet, or 1 if no packet was fed yet
    latest_ns      time of the latest packet, or 0 if no packet was fed yet

    All other attributes, except step_back_ns, are numbers of packets:

    too_short      packets that do not contain their whole link and IP headers, and are not passed to the program
    cut_too_short  packets that are counted in too_short and that the snap length shortened
    cut_malformed  packets that the program counts as malformed because the snap length cut off headers
    too_long       packets longer than MAX_WIRE_LENGTH, which are counted with this length
    untimed        packets without a valid timestamp
    steps_back     packets with an earlier time than the previous packet
    step_back_ns   the greatest number of ns by which a packet of steps_back is earlier than the previous packet
    """

    def __init__(self, config: EppingConfig, networks: Networks | None = None) -> None:
        super().__init__(replace(config, packet_clock=True, copies=True), networks=networks)
        self.attachments.register(CAPTURE, Role.CAPTURE)
        self.started_ns, self.latest_ns = 1, 0
        self.too_short = self.too_long = self.untimed = 0
        self.cut_too_short = self.cut_malformed = 0
        self.steps_back = self.step_back_ns = 0
        self._previous_ns = 0
        self._runs = ProgTestRuns(self.program.entry_points[ENTRY_POINT], _MAX_RUNS)

    def now_ns(self) -> int:
        """Returns the time of the latest packet."""
        return self.latest_ns

    def feed(self, batch: PacketBatch) -> None:
        """Runs the program on packets with Ethernet headers, in order.

        Raises EppingError if the kernel rejects a packet.

        A packet with the time UNTIMED_NS is counted, but neither starts nor completes an RTT sample, because the time 0
        means "never" in the program. A reply whose time is before the time of the request does not complete an RTT
        sample.
        """
        starts, captured, original, times_ns = batch.starts, batch.captured, batch.original, batch.times_ns
        self._track_times(times_ns)
        whole = _have_headers(batch.buffer, starts, captured)
        if not whole.all():
            self.too_short += int(np.count_nonzero(~whole))
            self.cut_too_short += int(np.count_nonzero(~whole & (captured < original)))
            starts, captured, original, times_ns = (rows[whole] for rows in (starts, captured, original, times_ns))
        self.too_long += int(np.count_nonzero(original > MAX_WIRE_LENGTH))
        sizes = np.minimum(captured, MAX_FRAME_BYTES)
        cut = captured < original
        wire_lengths = np.minimum(np.maximum(original, captured), MAX_WIRE_LENGTH)
        addresses = batch.buffer.ctypes.data + starts
        try:
            for begin in range(0, len(starts), _MAX_RUNS):
                part = slice(begin, begin + _MAX_RUNS)
                self._runs.request_marks(cut[part])
                self._run(addresses[part], sizes[part], wire_lengths[part], times_ns[part])
                marks = self._runs.marked["mark"][np.flatnonzero(cut[part])]
                self.cut_malformed += int(np.count_nonzero(marks == MALFORMED_MARK))
        except OSError as error:
            raise EppingError(f"the kernel rejected a test run of the program on a packet: {error.strerror}") from error

    def _track_times(self, times_ns: Int64Array) -> None:
        timed = times_ns[times_ns != UNTIMED_NS]
        self.untimed += len(times_ns) - len(timed)
        if not len(timed):
            return
        steps_ns = np.diff(timed, prepend=self._previous_ns)
        self._previous_ns = int(timed[-1])
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
