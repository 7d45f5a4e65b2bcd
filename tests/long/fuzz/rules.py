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
from tests.long.fuzz.timing import Timing

RTT_MIN_NS, RTT_MAX_NS = 1_000, 64_000_000_000
CLASSES = ("tcp_timestamp", "udp", "tcp_other", "icmp", "other")
EXTERNAL, INTERNAL, UNKNOWN = 0, 1, 2
# The side of the source address, for received packets and for transmitted packets.
SIDES = {Role.WAN: (EXTERNAL, INTERNAL), Role.LAN: (INTERNAL, EXTERNAL), Role.CAPTURE: (UNKNOWN, UNKNOWN)}

TRAFFIC = "tcp_timestamp"  # the method in the key of a subnet's traffic


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


class Subnet(NamedTuple):
    """The key under which traffic or RTTs are counted. All traffic of a subnet has the method TRAFFIC."""

    version: int
    prefix: bytes
    side: int
    method: str


OVERFLOW = Subnet(0, b"", 0, "")


@dataclass
class Tally:
    """The expected counts.

    interface   name in struct interface_counters -> count; "received tcp" counts packets, "received tcp bytes" bytes
    traffic     subnet -> name -> count; "from udp" counts packets, "from udp bytes" bytes
    behaviour   subnet -> name -> count; a name is a field of struct flow_counters or an ECN counter, with an index
    rtts        subnet -> RTTs in ns, limited to the range of the histogram
    """

    interface: Counter[str] = field(default_factory=Counter)
    traffic: defaultdict[Subnet, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    behaviour: defaultdict[Subnet, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    rtts: defaultdict[Subnet, list[int]] = field(default_factory=lambda: defaultdict(list))


class Model:
    """A model of the program, which counts the packets and RTTs that the program must count.

    A new model has no flows and no subnets.
    """

    def __init__(self, config: EppingConfig, link_header: int, role: Role = Role.WAN) -> None:
        self.config, self.link_header, self.role = config, link_header, role
        self.tally = Tally()
        self.flows: dict[object, Flow] = {}  # TCP flows; each flow has a key for each direction
        self.subnets: set[Subnet] = set()
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
            self.subnet(meaning.version, end[0], side, TRAFFIC, half)
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
        ended = [(name, method.see(seen)) for name, method in self.methods]
        for name, asked_ns in ended:
            if asked_ns is not None:
                self.record(seen, sides[0], name, asked_ns)

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

    def subnet(self, version: int, address: bytes, side: int, method: str, half: Half | None = None) -> Subnet:
        """Returns the subnet of an address, or OVERFLOW if all slots are used.

        A failed look-up is counted only once for each endpoint of a flow.
        """
        bits = self.config.prefix_v4 if version == 4 else self.config.prefix_v6
        subnet = Subnet(version, prefix(address, bits), side, method)
        if subnet in self.subnets:
            known = True
        elif known := len(self.subnets) < self.config.max_subnets:
            self.subnets.add(subnet)
        if not known and not (half and half.looked_up):
            self.tally.interface["subnet_insert_failed"] += 1
        if half:
            half.looked_up = True
        return subnet if known else OVERFLOW

    def record(self, seen: Seen, side: int, method: str, asked_ns: int) -> None:
        """Counts an RTT for the subnet of the reply's source."""
        rtt_ns = seen.now_ns - asked_ns
        if not 0 <= rtt_ns <= self.config.max_age_ns:
            self.tally.interface["rtt_expired"] += 1
            return
        # The flow looked up the subnet when the first packets of the flow were counted.
        half = seen.sender if method == TRAFFIC else None
        subnet = self.subnet(seen.meaning.version, seen.meaning.source[0], side, method, half)
        self.tally.interface["rtt_clamped 0"] += rtt_ns < RTT_MIN_NS
        self.tally.interface["rtt_clamped 1"] += rtt_ns > RTT_MAX_NS
        self.tally.interface["rtt_measured"] += 1
        self.tally.rtts[subnet].append(min(max(rtt_ns, RTT_MIN_NS), RTT_MAX_NS))


def class_of(meaning: Meaning) -> str:
    """Returns the class of traffic in which a packet is counted."""
    if meaning.kind == "tcp":
        return "tcp_timestamp" if meaning.timestamp else "tcp_other"
    return meaning.kind if meaning.kind in CLASSES else "other"
