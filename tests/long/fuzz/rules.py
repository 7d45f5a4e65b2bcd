# SPDX-License-Identifier: Apache-2.0
"""Computes the counts that the program must have after a sequence of packets.

Implements the rules of docs/design.md and docs/metrics.md.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz.copies import Copies
from tests.long.fuzz.flows import Flow, Half, Segment, behaviour, follow
from tests.long.fuzz.meaning import ACK, RST, SYN, Meaning, prefix, read
from tests.long.fuzz.methods import METHODS, Seen
from tests.long.fuzz.slots import OVERFLOW, SHARED, Histogram, Slots, Subnet
from tests.long.fuzz.timing import Timing

RTT_MIN_NS, RTT_MAX_NS = 1_000, 64_000_000_000
CLASSES = ("tcp_timestamp", "udp", "tcp_other", "icmp", "other")
EXTERNAL, INTERNAL, UNKNOWN = 0, 1, 2
_NAT64 = bytes.fromhex("0064ff9b") + bytes(8)  # RFC 6052, section 2.1
# The side of the source address, for received packets and for transmitted packets.
SIDES = {Role.WAN: (EXTERNAL, INTERNAL), Role.LAN: (INTERNAL, EXTERNAL), Role.CAPTURE: (UNKNOWN, UNKNOWN)}


class Step(NamedTuple):
    """A packet, and how the fuzzer sends the packet through the program.

    If `wire_length` is 0, the frame is the complete packet. `note` names the mutations of the packet.
    """

    ingress: bool
    frame: bytes
    at_ns: int
    wire_length: int = 0
    segments: int = 0
    note: str = ""


@dataclass
class Tally:
    """The expected counts.

    interface   name in struct interface_counters -> count; "received tcp" counts packets, "received tcp bytes" bytes
    traffic     subnet -> name -> count; "from udp" counts packets, "from udp bytes" bytes
    behaviour   subnet -> name -> count; a name is a field of struct flow_counters or an ECN counter, with an index
    rtts        histogram -> RTTs in ns, limited to the range of the histogram
    """

    interface: Counter[str] = field(default_factory=Counter)
    traffic: defaultdict[Subnet, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    behaviour: defaultdict[Subnet, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    rtts: defaultdict[Histogram, list[int]] = field(default_factory=lambda: defaultdict(list))


class Model:
    """A model of the program, which counts the packets and RTTs that the program must count.

    A new model has no flows and no subnets.
    """

    def __init__(self, config: EppingConfig, link_header: int, role: Role = Role.WAN) -> None:
        self.config, self.link_header, self.role = config, link_header, role
        self.tally = Tally()
        self.flows: dict[object, Flow] = {}  # TCP flows; each flow has a key for each direction
        self.slots = Slots(config)
        self.copies = Copies() if config.copies else None
        self.timing = Timing(config, self.tally.interface)
        self.methods = [
            (name, method(config, self.tally.interface)) for name, method in METHODS.items() if name in config.methods
        ]

    def see(self, step: Step) -> None:
        """Counts a packet."""
        meaning = read(
            step.frame,
            self.link_header,
            step.wire_length or len(step.frame),
            tunnels=self.config.tunnels,
            aggregate=step.segments > 0,
        )
        interface = self.tally.interface
        segments = step.segments or 1
        # On the wire, each segment of an aggregate has its own headers. The length of a transmitted aggregate already
        # includes the headers of all segments.
        size = (step.wire_length or len(step.frame)) + (segments - 1) * meaning.headers * step.ingress
        way = f"{'received' if step.ingress else 'transmitted'} {meaning.kind}"
        interface[way] += segments
        interface[way + " bytes"] += size
        if meaning.kind in ("non_ip", "malformed"):
            return
        interface[f"ecn {meaning.ecn}"] += segments

        ways = (None, None) if self.role is Role.CAPTURE else ("in", "out") if step.ingress else ("out", "in")
        seen = Seen(meaning, step.at_ns, *ways)
        if meaning.kind == "tcp":
            self.find_flow(seen)
        if self.copies and self.copies.has(seen, step.frame):
            interface["duplicates"] += segments
            return
        sides = SIDES[self.role] if step.ingress else SIDES[self.role][::-1]
        name = class_of(meaning)
        ends = [
            self.place(self.subnet(meaning.version, end[0], side), half)
            for end, side, half in (
                (meaning.source, sides[0], seen.sender),
                (meaning.destination, sides[1], seen.receiver),
            )
        ]
        for way, subnet in zip(("from", "to"), ends, strict=True):
            self.tally.traffic[subnet][f"{way} {name}"] += segments
            self.tally.traffic[subnet][f"{way} {name} bytes"] += size
            if meaning.ecn:
                self.tally.behaviour[subnet][f"ecn_{way} {meaning.ecn - 1}"] += segments
        if seen.flow and seen.sender and seen.receiver:
            if meaning.flags & SYN and not meaning.flags & RST:
                self.timing.begin(seen.sender, meaning)
            seen.segment = follow(seen.flow, seen.sender, seen.receiver, meaning, step.at_ns)
            is_first_of_tick = seen.flow.last_ns != step.at_ns
            for names in behaviour(seen.flow, seen.sender, meaning, seen.segment, step.at_ns):
                for subnet, shown in zip(ends, names, strict=True):
                    self.tally.behaviour[subnet][shown] += 1
            if is_first_of_tick:
                self.timing.check_clock(seen.sender, meaning, seen.segment)
            if seen.segment in (Segment.AGAIN, Segment.OVERTAKEN):
                self.timing.doubt(seen.sender, meaning)
        # A packet may complete two RTT samples. So all methods see the packet before any RTT is counted.
        asked = [(name, method.see(seen)) for name, method in self.methods]
        rtts = [(name, seen.now_ns - asked_ns) for name, asked_ns in asked if asked_ns is not None]
        in_time = [(name, rtt_ns) for name, rtt_ns in rtts if 0 <= rtt_ns <= self.config.max_age_ns]
        interface["rtt_expired"] += len(rtts) - len(in_time)
        if in_time:
            place = self.answer(self.subnet(meaning.version, meaning.source[0], sides[0]), ends[0], seen.sender)
            for name, rtt_ns in in_time:
                self.record(rtt_ns, name, place)

    def find_flow(self, seen: Seen) -> None:
        """Finds or creates the flow of a packet. Neither a SYN nor a RST creates a flow."""
        version, source, destination = seen.meaning.version, seen.meaning.source, seen.meaning.destination
        here: object = (version, source, destination, seen.way)
        there: object = (version, destination, source, seen.way_back)
        if source == destination:
            there = here, "the endpoints are equal, so requests and replies look alike"
        if here not in self.flows:
            if seen.meaning.flags & RST or seen.meaning.flags & (SYN | ACK) == SYN:
                return
            self.flows[here] = self.flows[there] = Flow({here: Half(), there: Half()})
            self.tally.interface["flows_created"] += 1
        seen.flow = self.flows[here]
        seen.sender, seen.receiver = seen.flow.halves[here], seen.flow.halves[there]

    def subnet(self, version: int, address: bytes, side: int) -> Subnet:
        """Returns the subnet of an address. In NAT64's well-known prefix, this is the subnet of the IPv4 address."""
        if version == 6 and address[:12] == _NAT64:
            version, address = 4, address[12:]
        bits = self.config.prefix_v4 if version == 4 else self.config.prefix_v6
        return Subnet(version, prefix(address, bits), side)

    def place(self, subnet: Subnet, half: Half | None) -> Subnet:
        """Returns the subnet if it has a slot, and otherwise a shared slot. An endpoint of a flow keeps its slot."""
        if half and half.place:
            return half.place
        found = self.slots.find(subnet, answered=False)
        if half:
            half.place = found
        return found

    def answer(self, subnet: Subnet, place: Subnet, half: Half | None) -> Subnet:
        """Returns the slot of the subnet that sent a reply. From now on, the subnet is no newcomer.

        If the subnet has no slot yet, it may get a slot now.
        """
        if place in SHARED:
            place = self.slots.find(subnet, answered=True)
            self.tally.interface["subnet_insert_failed"] += place == OVERFLOW
            if half:
                half.place = place
        if place not in SHARED:
            self.slots.answered[place] = True
        return place

    def record(self, rtt_ns: int, method: str, place: Subnet) -> None:
        """Counts an RTT for the subnet of the reply's source."""
        self.tally.interface["rtt_clamped 0"] += rtt_ns < RTT_MIN_NS
        self.tally.interface["rtt_clamped 1"] += rtt_ns > RTT_MAX_NS
        self.tally.interface["rtt_measured"] += 1
        rtt_ns = min(max(rtt_ns, RTT_MIN_NS), RTT_MAX_NS)
        self.tally.rtts[self.slots.histogram(place, method, rtt_ns)].append(rtt_ns)


def class_of(meaning: Meaning) -> str:
    """Returns the class of traffic in which a packet is counted."""
    if meaning.kind == "tcp":
        return "tcp_timestamp" if meaning.timestamp else "tcp_other"
    return meaning.kind if meaning.kind in CLASSES else "other"
