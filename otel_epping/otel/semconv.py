# SPDX-License-Identifier: Apache-2.0
"""Every attribute that otel-epping exports, and its values. Nothing is named anywhere else.

The semantic conventions for passive round-trip times are being written (open-telemetry/semantic-conventions #3682,
#3947): expect these names to change, here and in `metric_table.py`, which has the metrics.
"""

from otel_epping.kernel.methods import METHODS

# ---- attributes; those under epping. are our own

NETWORK_TYPE = "network.type"
NETWORK_TRANSPORT = "network.transport"
INTERFACE = "network.interface.name"
IO_DIRECTION = "network.io.direction"
OVERFLOW = "otel.metric.overflow"
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
    SUBNET: "The subnet, in CIDR notation.",
    NETWORK_TYPE: "`ipv4` or `ipv6`.",
    NETWORK_TRANSPORT: ", ".join(f"`{transport}`" for transport in dict.fromkeys(row.transport for row in METHODS))
    + ".",
    INTERFACE: "The interface on which the packets were seen.",
    IO_DIRECTION: "`receive`: in through the interface; `transmit`: out through it.",
    SIDE: "`external`: the subnet is on the side that the interface leads to, its packets come in through it; "
    "`internal`: it is on the other side, or this host itself; `unknown`: in a capture, and at a mirror port.",
    METHOD: "; ".join(f"`{row.name}`: {row.summary}" for row in METHODS) + ".",
    SUBNET_DIRECTION: "`from` or `to` the subnet.",
    TRAFFIC_CLASS: "`tcp_timestamp`, `tcp_other`, `udp`, `icmp`, `other` (all fragments but the first, too).",
    PACKET_KIND: "`tcp`, `udp`, `icmp`, `other`, `fragment`, `non_ip`, `malformed`.",
    ECN: "`not_ect`, `ect_1`, `ect_0`, `ce` (RFC 3168).",
    MAP: "`flows`, `subnets`.",
    BOUND: "`least` (1 us), `greatest` (64 s).",
    OUTCOME: "`begun`: a packet waits, or waited, for its reply; "
    "`not_begun`: as many waited already as can be remembered; "
    "`expired`: no reply within the maximum age; `superseded`: a later one was answered first; `repeated`: it was sent "
    "again, so that nobody can tell which one was answered; `abandoned`: its flow began anew, lost its timestamps or "
    "had to make room; `measured`. What is `begun` and in no other count waits, or was a question that had to make "
    "room.",
    TIMESTAMP_FAULT: "`missing`: segments without a timestamp; `still`: no new TSval, and no round-trip time begun "
    "for 250 ms; `unechoed`: a TSval that is acknowledged and not echoed.",
    INTERFACE_EVENT: "`attached`; `detached`: it went away, or is not to be watched any more; `refused`: it could not "
    "be attached to, which the log explains; `reattached`: another process had taken the program off a hook; `moved`: "
    "the program went back to the front of a hook, before a program that came later; `unseen`: the kernel began to "
    "count packets in a direction that the program does not see.",
    FLOW_OPENING: "`syn`: its SYN-ACK was seen; `midway`: it was there before, or was silent for 5 minutes.",
    FLOW_CLOSING: "`fin`: from both ends; `rst`; `silence`: 5 minutes of it, or it had to make room for other flows.",
    FLOW_REVERSE: "Where the other direction is. `same_way`: in another flow, which passes the interface the same way "
    "(a mirror port); `missing`: it was never seen (asymmetric routing).",
    OVERFLOW: "`true` on the one point, without any other attribute, for all subnets beyond the limit.",
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
