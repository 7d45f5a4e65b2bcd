# SPDX-License-Identifier: Apache-2.0
"""Every metric that otel-epping exports: name, unit, description, attributes (semconv.py).

What the kernel counts for each is in `counters.py`; `docs/metrics.md` is made from this file (scripts/metrics_page.py).
"""

from dataclasses import dataclass

from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_epping.otel.semconv import (
    BOUND,
    ECN,
    FLOW_CLOSING,
    FLOW_OPENING,
    FLOW_REVERSE,
    INTERFACE,
    INTERFACE_EVENT,
    IO_DIRECTION,
    MAP,
    METHOD,
    NETWORK_TRANSPORT,
    NETWORK_TYPE,
    OUTCOME,
    PACKET_KIND,
    SIDE,
    SUBNET,
    SUBNET_DIRECTION,
    TIMESTAMP_FAULT,
    TRAFFIC_CLASS,
)
from otel_epping.version import __version__

SCOPE = InstrumentationScope("otel_epping", __version__, "https://opentelemetry.io/schemas/1.44.0")


@dataclass(frozen=True)
class Metric:
    """A metric: its attributes are those of `keys`, in the order of the documentation."""

    name: str
    unit: str
    description: str
    keys: tuple[str, ...]
    kind: str = "counter"


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
SUBNET_BYTES = Metric(
    "epping.network.io",
    "By",
    "Bytes from and to a subnet, counted like packets, link headers included.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_ECN = Metric(
    "epping.network.ecn.packet.count",
    "{packet}",
    "IP packets from and to a subnet with an ECN code point; what remains of all packets is `not_ect`.",
    (*_DIRECTED_KEYS, ECN),
)
RETRANSMITTED = Metric(
    "epping.tcp.retransmission.count",
    "{segment}",
    "TCP segments from and to a subnet that were sent again.",
    _DIRECTED_KEYS,
)
OUT_OF_ORDER = Metric(
    "epping.tcp.out_of_order.count",
    "{segment}",
    "TCP segments from and to a subnet that were overtaken by later ones.",
    _DIRECTED_KEYS,
)
ZERO_WINDOW = Metric(
    "epping.tcp.zero_window.count",
    "{segment}",
    "TCP segments from and to a subnet that say that their sender can take no more.",
    _DIRECTED_KEYS,
)
OPENED = Metric(
    "epping.flow.opened.count",
    "{flow}",
    "TCP flows that were opened, counted for the subnets of both their ends.",
    (*_SUBNET_KEYS, FLOW_OPENING),
)
CLOSED = Metric(
    "epping.flow.closed.count",
    "{flow}",
    "TCP flows that ended, counted for the subnets of both their ends.",
    (*_SUBNET_KEYS, FLOW_CLOSING),
)

ACTIVE_FLOWS = Metric(
    "epping.flow.active",
    "{flow}",
    "TCP flows that are open and were heard within 5 minutes, counted for the subnets of both their ends.",
    _SUBNET_KEYS,
    "updowncounter",
)

INTERFACE_PACKETS = Metric(
    "epping.interface.packet.count",
    "{packet}",
    "Packets seen on an interface, each once. What is neither `non_ip` nor `malformed` counts for two subnets, too.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
INTERFACE_BYTES = Metric(
    "epping.interface.io",
    "By",
    "Bytes seen on an interface, link headers included.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
ECN_PACKETS = Metric(
    "epping.ecn.packet.count", "{packet}", "IP packets seen on an interface, by ECN code point.", (INTERFACE, ECN)
)
FLOWS = Metric("epping.flow.count", "{flow}", "TCP flows first seen on an interface.", (INTERFACE,))
UNIDIRECTIONAL = Metric(
    "epping.flow.unidirectional",
    "{flow}",
    "Active TCP flows of which only one direction is seen on an interface, so that no round-trip time can be measured; "
    "of interfaces that ever had one, as of the latest look through the table of flows (every 30 s).",
    (INTERFACE, FLOW_REVERSE),
    "updowncounter",
)
MEASUREMENTS = Metric(
    "epping.agent.measurement.count",
    "{measurement}",
    "Packets chosen to be timed, and what became of them.",
    (INTERFACE, OUTCOME),
)
TIMESTAMPS_FAILED = Metric(
    "epping.agent.timestamp.fault.count",
    "{fault}",
    "Directions of TCP flows whose timestamps ceased to work, so that sequence numbers time them from then on.",
    (INTERFACE, TIMESTAMP_FAULT),
)
DUPLICATES = Metric(
    "epping.interface.duplicate.count",
    "{packet}",
    "Packets that were seen before on their way, as on a mirror port. They count for the interface, and for no subnet.",
    (INTERFACE,),
)
CLAMPED = Metric(
    "epping.agent.rtt.clamped",
    "{rtt}",
    "Round-trip times outside the range of the histograms, counted as its bound.",
    (INTERFACE, BOUND),
)
INSERT_FAILED = Metric(
    "epping.agent.insert.failed",
    "{entry}",
    "Entries that a full table refused. Packets of a subnet without an entry are counted on the overflow point.",
    (INTERFACE, MAP),
)

INTERFACE_ATTACHED = Metric(
    "epping.agent.interface.attached",
    "{interface}",
    "Interfaces that are watched: 1 for one that is, 0 for one that was and whose counts are not delivered yet.",
    (INTERFACE,),
    "updowncounter",
)
INTERFACE_KERNEL_PACKETS = Metric(
    "epping.agent.interface.packet.count",
    "{packet}",
    "Packets that the kernel counted while an interface was watched, as `ip -s link` shows them. Compare with "
    "`epping.interface.packet.count`: of aggregates (GSO, GRO), the kernel may count one packet where this counts all.",
    (INTERFACE, IO_DIRECTION),
    "updowncounter",
)
SUBNET_USAGE = Metric(
    "epping.agent.subnet.usage", "{subnet}", "Slots that subnets take, of those there are.", (), "updowncounter"
)
FLOW_USAGE = Metric(
    "epping.agent.flow.usage",
    "{flow}",
    "Places that TCP flows take in their table; where all are taken, one of which only one end was heard makes room, "
    "then the one that was silent for longest.",
    (),
    "updowncounter",
)
FLOW_LIMIT = Metric("epping.agent.flow.limit", "{flow}", "Places for TCP flows.", (), "updowncounter")
SUBNET_LIMIT = Metric("epping.agent.subnet.limit", "{subnet}", "Slots for subnets.", (), "updowncounter")
# These five, where there are bounds (series/limits.py).
SUBNET_RETIRED = Metric(
    "epping.agent.subnet.retired", "{subnet}", "Slots taken back, of subnets idle for `idle_timeout`.", ()
)
SERIES_USAGE = Metric(
    "epping.agent.series.usage",
    "{subnet}",
    "Subnets that are exported apart, and prefixes that cover others, of as many as may be; only with bounds.",
    (),
    "updowncounter",
)
SERIES_LIMIT = Metric(
    "epping.agent.series.limit",
    "{subnet}",
    "Subnets and covering prefixes that may be exported apart; only with bounds.",
    (),
    "updowncounter",
)
SERIES_OVERFLOWED = Metric(
    "epping.agent.series.overflowed",
    "{subnet}",
    "Subnets beyond a bound that are exported together, on the overflow point; only with bounds.",
    (),
    "updowncounter",
)
SERIES_ROLLED_UP = Metric(
    "epping.agent.series.rolled_up",
    "{subnet}",
    "Subnets beyond a bound that are exported in prefixes that cover them; only with bounds.",
    (),
    "updowncounter",
)
# From here on, instruments of the SDK's (self_metrics.py): without data of one, its readers never call an exporter.
READ_DURATION = Metric(
    "epping.agent.read.duration", "s", "Time that the latest reading of the kernel's memory took.", (), "gauge"
)
EXPORT_DURATION = Metric(
    "epping.agent.export.duration",
    "s",
    "Time that the latest export took, its reading included; of several exporters, the slowest.",
    (),
    "gauge",
)
EXPORT_FAILED = Metric(
    "epping.agent.export.failed", "{request}", "Export requests that failed; their counts are sent again.", ()
)
EXPORT_REJECTED = Metric(
    "epping.agent.export.rejected",
    "{data_point}",
    "Points that a receiver refused of requests that it took, which are not sent again.",
    (),
)
INTERFACE_EVENTS = Metric(
    "epping.agent.interface.event.count",
    "{event}",
    "What happened to interfaces that are or were to be watched, and to the program on their hooks.",
    (INTERFACE_EVENT,),
)
FLOW_EVICTED = Metric(
    "epping.agent.flow.evicted",
    "{flow}",
    "TCP flows that had to make room for others in their table.",
    (),
)
PROGRAM_RUNS = Metric(
    "epping.agent.program.run.count",
    "{run}",
    "Times that the kernel program ran; only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
PROGRAM_TIME = Metric(
    "epping.agent.program.time",
    "s",
    "Time that the kernel program ran; only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
MEMORY_USAGE = Metric(
    "epping.agent.memory.usage",
    "By",
    "Resident memory of the process that exports: the agent, or the application that the collector is in.",
    (),
    "updowncounter",
)
# The version needs no metric: it is that of the scope of all of these, and the agent's `service.version`.

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
