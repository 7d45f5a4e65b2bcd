# SPDX-License-Identifier: Apache-2.0
"""Every metric and attribute that otel-epping exports: name, unit, description. Nothing is named anywhere else.

The semantic conventions for passive round-trip times are being written (open-telemetry/semantic-conventions #3682,
#3947): expect these names to change, here and only here. To add a counter, add a row; `docs/metrics.md` is made from
this file (`python -m otel_epping.telemetry`).
"""

import dataclasses
from dataclasses import dataclass

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_epping.kernel.methods import METHODS
from otel_epping.version import __version__

SCOPE = InstrumentationScope("otel_epping", __version__, "https://opentelemetry.io/schemas/1.44.0")

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
FLOW_OPENING = "epping.flow.opening"
FLOW_CLOSING = "epping.flow.closing"

ATTRIBUTES = {
    SUBNET: "The subnet, in CIDR notation.",
    NETWORK_TYPE: "`ipv4` or `ipv6`.",
    NETWORK_TRANSPORT: ", ".join(f"`{transport}`" for transport in dict.fromkeys(row.transport for row in METHODS))
    + ".",
    INTERFACE: "The interface on which the packets were seen.",
    IO_DIRECTION: "`receive`: in through the interface; `transmit`: out through it.",
    SIDE: "`external`: the subnet is on the side that the interface leads to, its packets come in through it; "
    "`internal`: it is on the other side, or this host itself; `unknown`: of a capture nobody knows.",
    METHOD: "; ".join(f"`{row.name}`: {row.summary}" for row in METHODS) + ".",
    SUBNET_DIRECTION: "`from` or `to` the subnet.",
    TRAFFIC_CLASS: "`tcp_timestamp`, `tcp_other`, `udp`, `icmp`, `other` (fragments too).",
    PACKET_KIND: "`tcp`, `udp`, `icmp`, `other`, `fragment`, `non_ip`, `malformed`.",
    ECN: "`not_ect`, `ect_1`, `ect_0`, `ce` (RFC 3168).",
    MAP: "`flows`, `subnets`.",
    BOUND: "`least` (1 us), `greatest` (64 s).",
    OUTCOME: "`begun`: a packet waits, or waited, for its reply; "
    "`not_begun`: as many waited already as can be remembered; "
    "`expired`: no reply within the maximum age; `superseded`: a later one was answered first; `repeated`: it was sent "
    "again, so that nobody can tell which one was answered.",
    FLOW_OPENING: "`syn`: its SYN-ACK was seen; `midway`: it was there before, or was silent for 5 minutes.",
    FLOW_CLOSING: "`fin`: from both ends; `rst`; `silence`: 5 minutes of it, or it had to make room for other flows.",
    OVERFLOW: "`true` on the one point, without any other attribute, for all subnets beyond the limit.",
}

# ---- values, in the order of the enums of bpf/maps.h

FAMILIES = {4: "ipv4", 6: "ipv6"}
SIDES = ("external", "internal", "unknown")
SUBNET_DIRECTIONS = ("from", "to")
TRAFFIC_CLASSES = ("tcp_timestamp", "tcp_other", "udp", "icmp", "other")
PACKET_KINDS = ("tcp", "udp", "icmp", "other", "fragment", "non_ip", "malformed")
ECN_CODEPOINTS = ("not_ect", "ect_1", "ect_0", "ce")
BOUNDS = ("least", "greatest")
FLOW_OPENINGS = ("syn", "midway")
FLOW_CLOSINGS = ("fin", "rst")

# ---- metrics


@dataclass(frozen=True)
class Metric:
    """A metric: its attributes are those of `keys`, in the order of the documentation."""

    name: str
    unit: str
    description: str
    keys: tuple[str, ...]
    kind: str = "counter"


@dataclass(frozen=True)
class Counter:
    """A field of the records of a reading, and the points that come of it.

    `field` may go into a struct, as in "received.packets". Where it is an array, `axis` gives attribute and values.
    """

    metric: Metric
    field: str
    axis: tuple[str, tuple[str, ...]] | None = None
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


RTT = Metric(
    "epping.rtt.duration",
    "s",
    "Round-trip time between the observing interface and the subnet that replied, measured passively.",
    (SUBNET, NETWORK_TYPE, NETWORK_TRANSPORT, INTERFACE, SIDE, METHOD),
    "exponential histogram",
)

_SUBNET_KEYS = (SUBNET, NETWORK_TYPE, INTERFACE, SIDE)
_DIRECTED_KEYS = (*_SUBNET_KEYS, SUBNET_DIRECTION)
SUBNET_PACKETS = Metric(
    "epping.network.packet.count",
    "{packet}",
    "Packets from and to a subnet. Each counts once from its source's and once to its destination's subnet. "
    "The share of the class `tcp_other` in TCP is what cannot be measured by timestamps.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
_SUBNET_BYTES = Metric(
    "epping.network.io",
    "By",
    "Bytes from and to a subnet, counted like packets, link headers included.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
_SUBNET_ECN = Metric(
    "epping.network.ecn.packet.count",
    "{packet}",
    "IP packets from and to a subnet with an ECN code point; what remains of all packets is `not_ect`.",
    (*_DIRECTED_KEYS, ECN),
)
_RETRANSMITTED = Metric(
    "epping.tcp.retransmission.count",
    "{segment}",
    "TCP segments from and to a subnet that were sent again.",
    _DIRECTED_KEYS,
)
_OUT_OF_ORDER = Metric(
    "epping.tcp.out_of_order.count",
    "{segment}",
    "TCP segments from and to a subnet that were overtaken by later ones.",
    _DIRECTED_KEYS,
)
_ZERO_WINDOW = Metric(
    "epping.tcp.zero_window.count",
    "{segment}",
    "TCP segments from and to a subnet that say that their sender can take no more.",
    _DIRECTED_KEYS,
)
_OPENED = Metric(
    "epping.flow.opened.count",
    "{flow}",
    "TCP flows that were opened, counted for the subnets of both their ends.",
    (*_SUBNET_KEYS, FLOW_OPENING),
)
_CLOSED = Metric(
    "epping.flow.closed.count",
    "{flow}",
    "TCP flows that ended, counted for the subnets of both their ends.",
    (*_SUBNET_KEYS, FLOW_CLOSING),
)

_CLASS_AXIS = (TRAFFIC_CLASS, TRAFFIC_CLASSES)
_ECN_AXIS = (ECN, ECN_CODEPOINTS[1:])
_DIRECTION_AXIS = (SUBNET_DIRECTION, SUBNET_DIRECTIONS)
# Fields of the records of kernel/subnet_counters.py.
SUBNET_COUNTERS = (
    Counter(SUBNET_PACKETS, "from.packets", _CLASS_AXIS, {SUBNET_DIRECTION: "from"}),
    Counter(SUBNET_PACKETS, "to.packets", _CLASS_AXIS, {SUBNET_DIRECTION: "to"}),
    Counter(_SUBNET_BYTES, "from.bytes", _CLASS_AXIS, {SUBNET_DIRECTION: "from"}),
    Counter(_SUBNET_BYTES, "to.bytes", _CLASS_AXIS, {SUBNET_DIRECTION: "to"}),
    Counter(_SUBNET_ECN, "ecn_from", _ECN_AXIS, {SUBNET_DIRECTION: "from"}),
    Counter(_SUBNET_ECN, "ecn_to", _ECN_AXIS, {SUBNET_DIRECTION: "to"}),
    Counter(_RETRANSMITTED, "retransmitted", _DIRECTION_AXIS),
    Counter(_OUT_OF_ORDER, "out_of_order", _DIRECTION_AXIS),
    Counter(_ZERO_WINDOW, "zero_window", _DIRECTION_AXIS),
    Counter(_OPENED, "opened", (FLOW_OPENING, FLOW_OPENINGS)),
    Counter(_CLOSED, "closed", (FLOW_CLOSING, FLOW_CLOSINGS)),
    Counter(_CLOSED, "silence", attributes={FLOW_CLOSING: "silence"}),
)
ACTIVE_FLOWS = Metric(
    "epping.flow.active",
    "{flow}",
    "TCP flows that are open and were heard within 5 minutes, counted for the subnets of both their ends.",
    _SUBNET_KEYS,
    "updowncounter",
)

_INTERFACE_PACKETS = Metric(
    "epping.interface.packet.count",
    "{packet}",
    "Packets seen on an interface, each once. What is neither `non_ip` nor `malformed` counts for two subnets, too.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
_INTERFACE_BYTES = Metric(
    "epping.interface.io",
    "By",
    "Bytes seen on an interface, link headers included.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
_ECN_PACKETS = Metric(
    "epping.ecn.packet.count", "{packet}", "IP packets seen on an interface, by ECN code point.", (INTERFACE, ECN)
)
_FLOWS = Metric("epping.flow.count", "{flow}", "TCP flows first seen on an interface.", (INTERFACE,))
_MEASUREMENTS = Metric(
    "epping.collector.measurement.count",
    "{measurement}",
    "Packets chosen to be timed, and what became of those that gave no round-trip time.",
    (INTERFACE, OUTCOME),
)
_CLAMPED = Metric(
    "epping.collector.rtt.clamped",
    "{rtt}",
    "Round-trip times outside the range of the histograms, counted as its bound.",
    (INTERFACE, BOUND),
)
_INSERT_FAILED = Metric(
    "epping.collector.insert.failed",
    "{entry}",
    "Entries that a full table refused. Packets of a subnet without an entry are counted on the overflow point.",
    (INTERFACE, MAP),
)

_KIND_AXIS = (PACKET_KIND, PACKET_KINDS)
# Fields of the program's struct interface_counters.
INTERFACE_COUNTERS = (
    Counter(_INTERFACE_PACKETS, "received.packets", _KIND_AXIS, {IO_DIRECTION: "receive"}),
    Counter(_INTERFACE_PACKETS, "transmitted.packets", _KIND_AXIS, {IO_DIRECTION: "transmit"}),
    Counter(_INTERFACE_BYTES, "received.bytes", _KIND_AXIS, {IO_DIRECTION: "receive"}),
    Counter(_INTERFACE_BYTES, "transmitted.bytes", _KIND_AXIS, {IO_DIRECTION: "transmit"}),
    Counter(_ECN_PACKETS, "ecn", (ECN, ECN_CODEPOINTS)),
    Counter(_FLOWS, "flows_created"),
    Counter(_MEASUREMENTS, "rtt_begun", attributes={OUTCOME: "begun"}),
    Counter(_MEASUREMENTS, "rtt_not_begun", attributes={OUTCOME: "not_begun"}),
    Counter(_MEASUREMENTS, "rtt_expired", attributes={OUTCOME: "expired"}),
    Counter(_MEASUREMENTS, "rtt_superseded", attributes={OUTCOME: "superseded"}),
    Counter(_MEASUREMENTS, "rtt_repeated", attributes={OUTCOME: "repeated"}),
    Counter(_CLAMPED, "rtt_clamped", (BOUND, BOUNDS)),
    Counter(_INSERT_FAILED, "flow_insert_failed", attributes={MAP: "flows"}),
    Counter(_INSERT_FAILED, "subnet_insert_failed", attributes={MAP: "subnets"}),
)

SUBNET_USAGE = Metric(
    "epping.collector.subnet.usage", "{subnet}", "Slots that subnets take, of those there are.", (), "updowncounter"
)
FLOW_USAGE = Metric(
    "epping.collector.flow.usage",
    "{flow}",
    "Places that TCP flows take in their table; where all are taken, one of which only one end was heard makes room, "
    "then the one that was silent for longest.",
    (),
    "updowncounter",
)
FLOW_LIMIT = Metric("epping.collector.flow.limit", "{flow}", "Places for TCP flows.", (), "updowncounter")
SUBNET_LIMIT = Metric("epping.collector.subnet.limit", "{subnet}", "Slots for subnets.", (), "updowncounter")
# An instrument of the SDK's: without one that has data, its readers never call an exporter.
READ_DURATION = Metric(
    "epping.collector.read.duration", "s", "Time that the latest reading of the kernel's memory took.", (), "gauge"
)
EXPORT_FAILED = Metric(
    "epping.collector.export.failed", "{request}", "Export requests that failed; their counts are sent again.", ()
)
EXPORT_REJECTED = Metric(
    "epping.collector.export.rejected",
    "{data_point}",
    "Points that a receiver refused of requests that it took, which are not sent again.",
    (),
)

METRICS = (
    RTT,
    *dict.fromkeys(counter.metric for counter in SUBNET_COUNTERS),
    ACTIVE_FLOWS,
    *dict.fromkeys(counter.metric for counter in INTERFACE_COUNTERS),
    SUBNET_USAGE,
    SUBNET_LIMIT,
    FLOW_USAGE,
    FLOW_LIMIT,
    READ_DURATION,
    EXPORT_FAILED,
    EXPORT_REJECTED,
)


def markdown() -> str:
    """The text of docs/metrics.md."""
    lines = [
        "# Metrics",
        "",
        "Made from `otel_epping/telemetry.py` by `make docs`; edit there.",
        "",
        "| metric | kind | unit | description | attributes |",
        "|---|---|---|---|---|",
    ]
    for metric in METRICS:
        keys = ", ".join(f"`{key}`" for key in metric.keys)
        lines.append(f"| `{metric.name}` | {metric.kind} | `{metric.unit}` | {metric.description} | {keys} |")
    lines += ["", "| attribute | meaning |", "|---|---|"]
    lines += [f"| `{key}` | {meaning} |" for key, meaning in ATTRIBUTES.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
