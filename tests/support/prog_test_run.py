# SPDX-License-Identifier: Apache-2.0
"""Feeds packets to the loaded kernel program and reads its counts.

BPF_PROG_TEST_RUN runs the program in the kernel on a packet that the caller provides. If `packet_clock` is set, the
program uses the packet's timestamp as the time. So a test sets the time of each packet to the nanosecond, and results
are reproducible.

    Bench   a loaded program: feed a packet, get the RTT that the packet completed, and read the counters
    Flow    a TCP connection between two subnets that no other flow uses, segment by segment

Results are read directly from the maps, not by the Reader, which has its own tests.
"""

import ctypes
import ipaddress
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.attach.interfaces import Interface
from otel_epping.kernel.buckets import bucket_count
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.read.histograms import block_numbers, numbers_of
from otel_epping.kernel.read.slot_tables import FREE
from otel_epping.replay.replayer import MIN_FRAME_BYTES, ProgTestRuns

INGRESS, EGRESS = "epping_ingress", "epping_egress"
# enum side, bpf/maps.h
EXTERNAL, INTERNAL = 0, 1
# enum packet_kind and enum traffic_class, bpf/maps.h
KINDS = ("tcp", "udp", "icmp", "other", "fragment", "non_ip", "malformed")
CLASSES = ("tcp_timestamp", "udp", "tcp_other", "icmp", "other")
UNKNOWN_ROW = 0

MS = 1_000_000
SECOND = 1_000_000_000
START_NS = 1_760_000_000 * SECOND
LO = Interface("lo", 1, 14)

_DATA_BYTES = 4096

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Feeder:
    """An entry point of the program, and the buffers of its packets. A fast loop may change the buffers before a
    run."""

    def __init__(self, program_fd: int) -> None:
        self.data = ctypes.create_string_buffer(_DATA_BYTES)
        self._runs = ProgTestRuns(program_fd, 1)
        self._options, self._context = self._runs.options, self._runs.contexts
        self._options["data_in"] = ctypes.addressof(self.data)
        self._time_ns, self._result = self._context["tstamp"], self._options["retval"]

    def set(self, frame: bytes, ifindex: int = 1, wire_len: int = 0, gso_segs: int = 0) -> None:
        """Set the packet for the next runs. `wire_len` 0 means the length of the frame."""
        assert MIN_FRAME_BYTES <= len(frame) <= _DATA_BYTES
        ctypes.memmove(self.data, frame, len(frame))
        self._options["data_size_in"], self._options["data_size_out"] = len(frame), 0
        self._context["ifindex"], self._context["wire_len"], self._context["gso_segs"] = ifindex, wire_len, gso_segs

    def run(self, at_ns: int) -> None:
        self._time_ns[0] = at_ns
        self._runs.run()
        # The verdict must be TC_ACT_UNSPEC for every packet, so that the next program on the hook gets the packet, too.
        assert self._result[0] == 0xFFFFFFFF, self._result


class Rtt(NamedTuple):
    """An RTT that the program counted. `subnet`, `side` and `interface` (the row of the interface) show where the RTT
    was counted."""

    ns: int
    subnet: Network
    side: int
    interface: int


@dataclass
class Counted:
    """The increases of an interface's counters inside `Bench.counting()`, by name. Unchanged counters are omitted.

    The value of a name such as "received tcp" is (packets, bytes). Examples of other names: "ecn 3", "rtt_clamped 0".
    """

    changes: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.changes.get(name, 0)


class Bench:
    """A loaded program with the packet clock. The loopback interface is registered in the program."""

    def __init__(self, config: EppingConfig) -> None:
        assert config.packet_clock
        self.collector = EppingCollector(config, idle_timeout_ns=0)
        self.config = config
        self.row = self.register(LO)
        self.feeders = {name: Feeder(fd) for name, fd in self.collector.program.entry_points.items()}
        self.histograms = self.array("histograms")
        self.blocks = self.array("blocks")
        self.slots = self.array("slots")
        # (rows, CPUs)
        self.traffic = self.array("traffic").reshape(-1, possible_cpus())
        self.interface_counters = self.array("interface_counters").reshape(-1, possible_cpus())
        self._flows = 0

    def array(self, name: str) -> npt.NDArray[Any]:
        """Return a view of an array of the program. The view always shows the current values."""
        array = map_array.Array(name, self.collector.program.maps[name])
        return array.rows(0, array.length)

    def register(self, interface: Interface) -> int:
        """Register an interface with the program, and return its row among the interface counters."""
        self.collector.attachments.register(interface)
        return self.row_of(interface.ifindex)

    def row_of(self, ifindex: int) -> int:
        """Return the row of an interface among the interface counters. Like the program, this method looks up the row
        by open addressing with 4 probes (bpf/maps.h)."""
        for row in range(ifindex, ifindex + 4):
            found = self.array("interfaces")[row % 4096]
            if found["ifindex"] == ifindex:
                return int(found["number"])
        raise AssertionError(f"interface {ifindex} is not registered")

    def feed(
        self,
        frame: bytes | Packet,
        at_ns: int = START_NS,
        entry: str = INGRESS,
        ifindex: int = 1,
        wire_len: int = 0,
        segments: int = 0,
    ) -> Rtt | None:
        """Run the program on a packet. Return the RTT that the packet completed, or None. It is an error if the packet
        completed several RTTs."""
        feeder = self.feeders[entry]
        feeder.set(bytes(frame), ifindex, wire_len, segments)
        counts, sums = self.histograms["ended"].copy(), self.histograms["sum_ns"].copy()
        feeder.run(at_ns)
        changed = np.flatnonzero(self.histograms["ended"] != counts)
        if not len(changed):
            return None
        (row,) = changed.tolist()
        assert self.histograms["ended"][row] == counts[row] + 1
        subnet, side, interface = self.describe(int(self.histograms["slot"][row]))
        return Rtt(int(self.histograms["sum_ns"][row] - sums[row]), subnet, side, interface)

    def slots_in_use(self) -> list[int]:
        """Return the slots of all subnets, without the shared slots."""
        return np.flatnonzero(self.slots["state"] != FREE).tolist()

    def histogram_of(self, slot: int, method: int = 0) -> int:
        """Return the row of a slot's histogram for a method. Return 0 if the slot has no histogram for the method."""
        return int(numbers_of(self.slots["histograms"][slot][None])[0][method])

    def buckets_of(self, row: int) -> npt.NDArray[np.uint32]:
        """Return a copy of all buckets of a row of `histograms`, with the shape (buckets,)."""
        numbers = block_numbers(self.histograms[row][None])[0]
        return np.asarray(self.blocks["buckets"][numbers].ravel()[: bucket_count(self.config.scale)])

    def describe(self, slot: int) -> tuple[Network, int, int]:
        """Return the subnet, the side and the interface row of a slot. Subnets have the configured prefix length."""
        assert self.slots["state"][slot], f"slot {slot} is not in use"
        key = self.slots["key"][slot]
        packed = key["prefix"].tobytes()
        if key["family"] == 4:
            assert packed[:12] == bytes(10) + b"\xff\xff"
            # IPv4Network rejects an address with bits beyond the prefix
            return ipaddress.IPv4Network((packed[12:], self.config.prefix_v4)), int(key["side"]), int(key["interface"])
        assert key["family"] == 6
        return ipaddress.IPv6Network((packed, self.config.prefix_v6)), int(key["side"]), int(key["interface"])

    def slot_of(self, subnet: Network, side: int, row: int | None = None) -> int | None:
        """Return the slot of a subnet in the program's hash map, or None."""
        packed = subnet.network_address.packed
        if subnet.version == 4:
            packed = bytes(10) + b"\xff\xff" + packed
        key = struct.pack("=16sHBBxxxx", packed, self.row if row is None else row, subnet.version, side)
        value = libbpf.map_lookup(self.collector.program.maps["subnets"].fd, key, 4)
        return None if value is None else int.from_bytes(value, "little")

    def traffic_of(self, slot: int) -> dict[str, tuple[int, int]]:
        """Return the packets and bytes of a slot: "from udp" -> (packets, bytes). Counters that are 0 are omitted."""
        rows = self.traffic[slot]["classes"]
        found = {}
        for direction in ("from", "to"):
            for index, name in enumerate(CLASSES):
                tally = rows[direction][:, index]
                packets, total = int(tally["packets"].sum()), int(tally["bytes"].sum())
                if packets or total:
                    found[f"{direction} {name}"] = (packets, total)
        return found

    def counters(self, row: int | None = None) -> dict[str, Any]:
        """Return all counters of an interface, summed over the CPUs."""
        rows = self.interface_counters[self.row if row is None else row]
        found: dict[str, Any] = {}
        for direction in ("received", "transmitted"):
            for index, kind in enumerate(KINDS):
                tally = rows[direction][:, index]
                found[f"{direction} {kind}"] = (int(tally["packets"].sum()), int(tally["bytes"].sum()))
        for name in set(rows.dtype.names or ()) - {"received", "transmitted", "unused"}:
            values = np.atleast_1d(rows[name].sum(0)).tolist()
            found |= {name: values[0]} if len(values) == 1 else {f"{name} {i}": v for i, v in enumerate(values)}
        return found

    @contextmanager
    def counting(self, row: int | None = None) -> Iterator[Counted]:
        """Yield the changes of an interface's counters. The changes are complete when the `with` block has ended."""
        before = self.counters(row)
        counted = Counted({})
        yield counted
        for name, after in self.counters(row).items():
            if isinstance(after, tuple):
                change: Any = (after[0] - before[name][0], after[1] - before[name][1])
                if change != (0, 0):
                    counted.changes[name] = change
            elif after != before[name]:
                counted.changes[name] = after - before[name]

    def flow(self, version: int = 4, ifindex: int = 1, client: str = "", server: str = "") -> "Flow":
        """Return a flow between two new subnets. The subnets are different at the default prefix lengths and at longer
        prefix lengths."""
        self._flows += 1
        high, low = divmod(self._flows, 256)
        if version == 4:
            fresh = f"10.{high}.{low}.1", f"11.{high}.{low}.2"
        else:
            fresh = f"2001:db8:{self._flows:x}::1", f"2001:db9:{self._flows:x}::2"
        return Flow(self, ifindex, client or fresh[0], server or fresh[1])

    def close(self) -> None:
        self.collector.close()


class Flow:
    """A TCP connection. The client is on the internal side: the client's segments are transmitted, and the server's
    segments are received.

    `client()` and `server()` send one segment, with data by default, and return the RTT in ns that the segment
    completed, or None. Both methods check that each RTT is counted for the subnet and the side of the segment's sender.
    """

    def __init__(self, bench: Bench, ifindex: int, client: str, server: str) -> None:
        self.bench = bench
        self.ifindex = ifindex
        self.addresses = ipaddress.ip_address(client), ipaddress.ip_address(server)
        self.ports = 40_000, 443
        self.start_ns = START_NS

    def frame(self, sender: int, flags: str, tsval: int | None, tsecr: int, payload: bytes) -> bytes:
        """Return a segment of endpoint 0 (client) or 1 (server). If `tsval` is None, the segment has no timestamp
        option."""
        layer = IP if self.addresses[0].version == 4 else IPv6
        options: list[Any] = [] if tsval is None else [("NOP", None), ("NOP", None), ("Timestamp", (tsval, tsecr))]
        network = layer(src=str(self.addresses[sender]), dst=str(self.addresses[1 - sender]))
        transport = TCP(sport=self.ports[sender], dport=self.ports[1 - sender], flags=flags, options=options)
        return bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / network / transport / payload)

    def send(
        self, sender: int, entry: str, at_ns: int, tsval: int | None, tsecr: int, flags: str, payload: bytes
    ) -> int | None:
        """Send one segment through an entry point of the program."""
        frame = self.frame(sender, flags, tsval, tsecr, payload)
        rtt = self.bench.feed(frame, self.start_ns + at_ns, entry, self.ifindex)
        if rtt is None:
            return None
        assert self.addresses[sender] in rtt.subnet
        assert rtt.side == (EXTERNAL if entry == INGRESS else INTERNAL)
        return rtt.ns

    def client(
        self, at_ns: int, tsval: int | None, tsecr: int = 0, flags: str = "PA", payload: bytes = b"data"
    ) -> int | None:
        return self.send(0, EGRESS, at_ns, tsval, tsecr, flags, payload)

    def server(
        self, at_ns: int, tsval: int | None, tsecr: int = 0, flags: str = "PA", payload: bytes = b"data"
    ) -> int | None:
        return self.send(1, INGRESS, at_ns, tsval, tsecr, flags, payload)

    def begun(self, tsval: int = 1000) -> "Flow":
        """Send a pure ACK of the client with `tsval` at time 0. Then the first segment with a later TSval can start an
        RTT sample."""
        self.client(0, tsval, flags="A", payload=b"")
        return self


def delete_element(map_fd: int, key: bytes) -> None:
    """Delete an element of a map."""
    assert ctypes.CDLL("libbpf.so.1").bpf_map_delete_elem(map_fd, key) == 0
