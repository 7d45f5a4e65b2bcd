# SPDX-License-Identifier: Apache-2.0
"""Defines the names and values of all exported attributes. No other module contains an attribute name.

Semantic conventions for passive round-trip times are in discussion (open-telemetry/semantic-conventions #3682, #3947).
When these semantic conventions are accepted, the names here and in `metric_table.py` will be changed accordingly.
"""

from otel_epping.kernel.methods import METHODS

# ---- attributes; epping.* is our own namespace

NETWORK_TYPE = "network.type"
NETWORK_TRANSPORT = "network.transport"
INTERFACE = "network.interface.name"
IO_DIRECTION = "network.io.direction"
OVERFLOW = "otel.metric.overflow"
UNANSWERED = "epping.unanswered"
SUBNET = "epping.subnet"
SUBNET_DIRECTION = "epping.subnet.direction"
SIDE = "epping.rtt.side"
METHOD = "epping.rtt.method"
TRAFFIC_CLASS = "epping.traffic.class"
PACKET_KIND = "epping.packet.kind"
ECN = "epping.ecn.codepoint"
MAP = "epping.map"
BOUND = "epping.bound"
OUTCOME = "epping.measurement.outcome"
TIMESTAMP_FAULT = "epping.tcp.timestamp.fault"
INTERFACE_EVENT = "epping.interface.event"
FLOW_OPENING = "epping.flow.opening"
FLOW_CLOSING = "epping.flow.closing"
FLOW_REVERSE = "epping.flow.reverse"

ATTRIBUTES = {
    SUBNET: "The subnet in CIDR notation.",
    NETWORK_TYPE: "`ipv4` or `ipv6`.",
    NETWORK_TRANSPORT: ", ".join(f"`{transport}`" for transport in dict.fromkeys(row.transport for row in METHODS))
    + ".",
    INTERFACE: "The interface on which the packets were seen.",
    IO_DIRECTION: "`receive`: packets that arrive at the interface; `transmit`: packets that leave through it.",
    SIDE: "The side of the interface where the subnet is located. `external`: the side of the internet; `internal`: "
    "the side of the customers; `unknown`: in captures and at mirror ports. Packets arrive from the external side if "
    "the role of the interface is `wan`, and from the internal side if the role is `lan`. The measuring host itself is "
    "on the other side.",
    METHOD: "; ".join(f"`{row.name}`: {row.summary}" for row in METHODS) + ".",
    SUBNET_DIRECTION: "The direction of the packets or segments: `from` or `to` the subnet.",
    TRAFFIC_CLASS: "`tcp_timestamp`, `tcp_other`, `udp`, `icmp`, `other` (includes all IP fragments except the first).",
    PACKET_KIND: "`tcp`, `udp`, `icmp`, `other`, `fragment`, `non_ip`, `malformed`.",
    ECN: "The ECN code point: `not_ect`, `ect_1`, `ect_0`, `ce` (RFC 3168).",
    MAP: "The table that was full: `flows` or `subnets`.",
    BOUND: "`least`: the round-trip time was below 1 us; `greatest`: it was above 64 s.",
    OUTCOME: "`begun`: an RTT sample was started; `not_begun`: no sample was started, because four packets of the flow "
    "and direction already waited for a reply; `expired`: no reply arrived within the maximum age; `superseded`: a "
    "later packet was answered first; `repeated`: the packet was retransmitted, so the reply may belong to either "
    "copy; `abandoned`: the flow restarted, lost its timestamps or was evicted; `measured`: the reply completed the "
    "sample. A `begun` sample without another outcome still waits for a reply, or the DNS, echo or QUIC request of the "
    "sample was evicted.",
    TIMESTAMP_FAULT: "`missing`: segments have no timestamp; `still`: the TSval did not change, and no RTT sample "
    "was started for 250 ms; `unechoed`: a segment was acknowledged without an echo of its TSval.",
    INTERFACE_EVENT: "`attached`: the program was attached; `detached`: the interface no longer exists or is no longer "
    "selected; `refused`: the program could not be attached, for the reason in the log; `reattached`: the program was "
    "attached again after another process had detached it; `moved`: the program was moved back to the front of a hook, "
    "because another program had been attached in front of it; `unseen`: in one direction, the kernel counts packets "
    "that the program does not see.",
    FLOW_OPENING: "`syn`: the SYN-ACK was seen; `midway`: the flow was already open when it was first seen, or "
    "had been idle for 5 minutes.",
    FLOW_CLOSING: "`fin`: both endpoints sent a FIN; `rst`: an endpoint sent an RST; `silence`: the flow was idle for "
    "5 minutes, or was evicted.",
    FLOW_REVERSE: "Where the other direction of the flow is seen. `same_way`: the packets of both directions arrive "
    "at the interface, as at a mirror port, or both leave; `missing`: the other direction was not seen, as with "
    "asymmetric routing.",
    OVERFLOW: "`true` on the overflow point, which sums all subnets beyond the limits and has no other attribute.",
    UNANSWERED: "`true` on the point that sums all subnets for which no round-trip time was measured yet. This point "
    "has no other attribute.",
}

# ---- values, in the order of the enums of bpf/maps.h

FAMILIES = {4: "ipv4", 6: "ipv6"}
SIDES = ("external", "internal", "unknown")
SUBNET_DIRECTIONS = ("from", "to")
IO_DIRECTIONS = ("receive", "transmit")
TRAFFIC_CLASSES = ("tcp_timestamp", "udp", "tcp_other", "icmp", "other")
PACKET_KINDS = ("tcp", "udp", "icmp", "other", "fragment", "non_ip", "malformed")
ECN_CODEPOINTS = ("not_ect", "ect_1", "ect_0", "ce")
BOUNDS = ("least", "greatest")
TIMESTAMP_FAULTS = ("missing", "still", "unechoed")
FLOW_OPENINGS = ("syn", "midway")
FLOW_CLOSINGS = ("fin", "rst")
FLOW_REVERSES = ("same_way", "missing")
