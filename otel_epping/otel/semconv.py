# SPDX-License-Identifier: Apache-2.0
"""Defines the names and values of all exported attributes. No other module contains an attribute name.

`make docs` generates schemas/ and docs/metrics.md from this file and from `metric_table.py`.

Semantic conventions for passive round-trip times are in discussion (open-telemetry/semantic-conventions #3682, #3947).
When semantic conventions for passive round-trip times are accepted, change the names here and in `metric_table.py`. All
other code uses the constants that these two files define. The drafts that concern our attributes, and their state in
September 2026:

#3731  proposes `network.peer.address.prefix` for a subnet in CIDR notation. The issue is open and not triaged. The name
       may still change: in OpenTelemetry's naming policy, an attribute name must not be the namespace of another
       attribute, and `network.peer.address` is an attribute. Until the name is accepted, OpenTelemetry advises
       applications not to add names to the namespace `network` (docs/general/naming.md). After that, change SUBNET.
#4115  adds `network.peer.as.number`, an integer without the prefix "AS", and `network.peer.as.organization.name`. The
       pull request is open. AS_NUMBER and AS_ORGANIZATION have these names. If the pull request changes the names,
       change AS_NAMESPACE. When OpenTelemetry's registry defines the attributes, set `is_otel`.
#4045  explains which address attributes to use at an observation point. The pull request is open, and defines no
       attribute for the observation point. Until such an attribute exists, INTERFACE and SIDE describe the observation
       point.
"""

from dataclasses import dataclass, field

from otel_epping.kernel.methods import METHODS
from otel_epping.version import __version__

# The schema of all metrics. The specification requires that the URL ends with a version, and that the schema file can
# be retrieved from the URL. The URL is not OpenTelemetry's, because OpenTelemetry's schema does not define our metrics.
# Our registry (schemas/manifest.yaml) names the schema of OpenTelemetry that defines the other attributes.
SCHEMA_URL = f"https://github.com/otel-epping/otel-epping/raw/main/schemas/{__version__}"
OTEL_SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"

# ---- attributes; epping.* is our own namespace

NETWORK_TYPE = "network.type"
NETWORK_TRANSPORT = "network.transport"
INTERFACE = "network.interface.name"
IO_DIRECTION = "network.io.direction"
OVERFLOW = "otel.metric.overflow"
UNANSWERED = "epping.unanswered"
SUBNET = "epping.subnet"
NETWORK_NAME = "epping.network.name"
NETWORK_TAG = "epping.network.tag"
AS_NAMESPACE = "network.peer.as"
AS_NUMBER = f"{AS_NAMESPACE}.number"
AS_ORGANIZATION = f"{AS_NAMESPACE}.organization.name"
COUNTRY = "geo.country.iso_code"
SUBNET_DIRECTION = "epping.traffic.direction"
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


@dataclass(frozen=True)
class Attribute:
    """Describes an attribute.

    brief        what the attribute says about a data point
    values       the closed set of values, and the meaning of each value; empty if the set is open
    examples     examples of values, if the set is open
    note         further facts
    short        the attribute's name in the setting `attributes`; empty if the setting cannot contain the attribute
    needed       why the setting `attributes` must not leave out the attribute; empty if the attribute may be left out
    is_otel      whether OpenTelemetry's registry defines the attribute; then ours only refers to the definition
    is_template  whether the attribute is a template: an exported name consists of the attribute's name, a dot and a key
    stability    a stability level of OpenTelemetry; OpenTelemetry's own attributes have the level of its registry
    """

    brief: str
    values: dict[str, str] = field(default_factory=dict)
    examples: tuple[str | bool | int, ...] = ()
    note: str = ""
    short: str = ""
    needed: str = ""
    is_otel: bool = False
    is_template: bool = False
    stability: str = "development"


ATTRIBUTES = {
    SUBNET: Attribute(
        "The subnet in CIDR notation.",
        examples=("192.0.2.0/24", "2001:db8::/48"),
        short="subnet",
    ),
    NETWORK_TYPE: Attribute(
        "The version of IP.",
        {"ipv4": "IPv4", "ipv6": "IPv6"},
        is_otel=True,
        short="network_type",
    ),
    NETWORK_NAME: Attribute(
        "The name of the named network.",
        examples=("Miller", "Tower 7"),
        note="A point of a named network has no subnet and no version of IP.",
        short="name",
    ),
    NETWORK_TAG: Attribute(
        "A tag of the named network or group. For example, `epping.network.tag.site` contains the tag `site`.",
        examples=("Berlin", "100/20"),
        short="tag",
        is_template=True,
    ),
    AS_NUMBER: Attribute(
        "The number of the autonomous system (AS) of all addresses of the subnet, network or group.",
        examples=(64500, 65551),
        short="asn",
    ),
    AS_ORGANIZATION: Attribute(
        "The name of the organisation that holds the AS, as in the configured database.",
        examples=("Example Networks",),
        short="organization",
    ),
    COUNTRY: Attribute(
        "The country of all addresses of the subnet, network or group, as an ISO 3166-1 code of two letters.",
        examples=("DE", "US"),
        is_otel=True,
        short="country",
    ),
    NETWORK_TRANSPORT: Attribute(
        "The transport protocol of the packets that were timed.",
        {"tcp": "TCP", "icmp": "ICMP and ICMPv6", "udp": "UDP", "quic": "QUIC"},
        note="OpenTelemetry's registry has no value for ICMP. The registry allows other values.",
        is_otel=True,
        short="transport",
    ),
    INTERFACE: Attribute(
        "The interface on which the packets were seen.",
        examples=("eth0", "wan0"),
        is_otel=True,
        note="If more than 1024 interfaces are watched, some interfaces share one set of counters. For these "
        "interfaces, the value is empty.",
        short="interface",
    ),
    IO_DIRECTION: Attribute(
        "The direction of the packets at the interface.",
        {"receive": "packets that arrive at the interface", "transmit": "packets that leave through it"},
        is_otel=True,
        short="direction",
        needed="a forwarded packet is counted when it arrives and when it leaves",
    ),
    SIDE: Attribute(
        "The side of the interface where the subnet is located.",
        {
            "external": "the side of the internet",
            "internal": "the side of the customers",
            "unknown": "in captures and at mirror ports",
        },
        note="Packets arrive from the external side if the role of the interface is `wan`, and from the internal side "
        "if the role is `lan`. The measuring host itself is on the other side.",
        short="side",
        needed="round-trip times to internal and to external networks are times of different parts of a path",
    ),
    METHOD: Attribute(
        "The method that measured the round-trip times.",
        {row.name: row.summary for row in METHODS},
        short="method",
    ),
    SUBNET_DIRECTION: Attribute(
        "The direction of the packets or segments.",
        {"from": "the source address is in the subnet", "to": "the destination address is in the subnet"},
        short="direction",
        needed="each packet counts for two subnets: `from` for its source, and `to` for its destination",
    ),
    TRAFFIC_CLASS: Attribute(
        "The class of the packets.",
        {
            "tcp_timestamp": "TCP segments with timestamps",
            "udp": "UDP",
            "tcp_other": "TCP segments without timestamps",
            "icmp": "ICMP and ICMPv6",
            "other": "other protocols, and all IP fragments except the first",
        },
        short="traffic_class",
    ),
    PACKET_KIND: Attribute(
        "The kind of the packets.",
        {
            "tcp": "TCP",
            "udp": "UDP",
            "icmp": "ICMP and ICMPv6",
            "other": "other IP protocols",
            "fragment": "IP fragments except the first",
            "non_ip": "packets without an IP header",
            "malformed": "packets with a header that is cut off or invalid",
        },
        short="kind",
    ),
    ECN: Attribute(
        "The ECN code point (RFC 3168).",
        {
            "not_ect": "the endpoints do not use ECN for the packet",
            "ect_1": "the endpoints use ECN: ECT(1)",
            "ect_0": "the endpoints use ECN: ECT(0)",
            "ce": "a node on the path was congested and has marked the packet",
        },
        short="ecn",
        needed="the shares of the code points are of interest, and their sum is only a number of packets",
    ),
    MAP: Attribute(
        "The table that was full.",
        {"flows": "the TCP flow table", "subnets": "the table of subnets"},
        short="map",
        needed="the entries of the two tables are different things",
    ),
    BOUND: Attribute(
        "The bound of the histogram range that replaced the round-trip time.",
        {"least": "the round-trip time was below 1 us", "greatest": "the round-trip time was above 64 s"},
        short="bound",
        needed="too short and too long round-trip times are different faults",
    ),
    OUTCOME: Attribute(
        "What happened to an RTT sample, or to a packet that was selected to start one.",
        {
            "begun": "an RTT sample was started",
            "not_begun": "no sample was started, because four packets of the flow and direction already waited for a "
            "reply",
            "expired": "no reply arrived within the maximum age",
            "superseded": "a later packet was answered first",
            "repeated": "the packet was retransmitted, so the reply may belong to either copy",
            "abandoned": "the flow restarted, lost its timestamps or was evicted",
            "measured": "the reply completed the sample",
        },
        note="A `begun` sample without another outcome still waits for a reply, or the DNS, echo or QUIC request of "
        "the sample was evicted.",
        short="outcome",
        needed="each sample is counted as `begun`, and again when it ends",
    ),
    TIMESTAMP_FAULT: Attribute(
        "How the TCP timestamps stopped working.",
        {
            "missing": "segments have no timestamp",
            "still": "the TSval did not change, and no RTT sample was started for 250 ms",
            "unechoed": "a segment was acknowledged without an echo of its TSval",
        },
        short="fault",
    ),
    INTERFACE_EVENT: Attribute(
        "The event.",
        {
            "attached": "the program was attached",
            "detached": "the interface no longer exists or is no longer selected",
            "refused": "the program could not be attached, for the reason in the log",
            "reattached": "the program was attached again after another process had detached it",
            "moved": "the program was moved back to the front of a hook, because another program had been attached in "
            "front of it",
            "unseen": "in one direction, the kernel counts packets that the program does not see",
        },
        short="event",
        needed="the events are different things, not parts of one sum",
    ),
    FLOW_OPENING: Attribute(
        "How the flow was opened.",
        {
            "syn": "the SYN-ACK was seen",
            "midway": "the flow was already open when it was first seen, or had been idle for 5 minutes",
        },
        short="opening",
    ),
    FLOW_CLOSING: Attribute(
        "How the flow was closed.",
        {
            "fin": "both endpoints sent a FIN",
            "rst": "an endpoint sent an RST",
            "silence": "the flow was idle for 5 minutes, or was evicted",
        },
        short="closing",
    ),
    FLOW_REVERSE: Attribute(
        "Where the other direction of the flow is seen.",
        {
            "same_way": "the packets of both directions arrive at the interface, as at a mirror port, or both leave",
            "missing": "the other direction was not seen, as with asymmetric routing",
        },
        short="reverse",
        needed="a mirror port and asymmetric routing are different faults",
    ),
    OVERFLOW: Attribute(
        "`true` on the overflow point, which sums all subnets beyond the limits and has no other attribute.",
        examples=(True,),
        note="The specification of OpenTelemetry's metrics SDK defines the name. OpenTelemetry's registry does not "
        "contain the attribute.",
    ),
    UNANSWERED: Attribute(
        "`true` on the point that sums all subnets for which no round-trip time was measured yet. This point has no "
        "other attribute.",
        examples=(True,),
    ),
}
# Each attribute in AGGREGATES marks data points that sum the counts of many subnets. Such a data point has no other
# attribute.
AGGREGATES = (OVERFLOW, UNANSWERED)
# Requirement levels, in the notation of OpenTelemetry's registry. A metric of subnets has attributes of single subnets
# (ON_SUBNETS, MAY_BE_ON_SUBNETS) and attributes of aggregates (ON_AGGREGATES).
Level = str | dict[str, str]
_OF_SUBNETS = "The point belongs to a subnet, a covering prefix, a named network or a group."
ON_SUBNETS: Level = {"conditionally_required": _OF_SUBNETS}
MAY_BE_ON_SUBNETS: Level = {"recommended": _OF_SUBNETS}
ON_AGGREGATES: Level = {"conditionally_required": "The point is an aggregate. The point has no other attribute."}


def _values(name: str) -> tuple[str, ...]:
    return tuple(ATTRIBUTES[name].values)


# ---- values, in the order of the enums of bpf/maps.h

FAMILIES = {4: "ipv4", 6: "ipv6"}
SIDES = _values(SIDE)
SUBNET_DIRECTIONS = _values(SUBNET_DIRECTION)
IO_DIRECTIONS = _values(IO_DIRECTION)
TRAFFIC_CLASSES = _values(TRAFFIC_CLASS)
PACKET_KINDS = _values(PACKET_KIND)
ECN_CODEPOINTS = _values(ECN)
BOUNDS = _values(BOUND)
TIMESTAMP_FAULTS = _values(TIMESTAMP_FAULT)
FLOW_OPENINGS = _values(FLOW_OPENING)
FLOW_CLOSINGS = _values(FLOW_CLOSING)[:2]  # `silence` is counted in a field of its own
FLOW_REVERSES = _values(FLOW_REVERSE)
