# SPDX-License-Identifier: Apache-2.0
"""Defines every metric that otel-epping exports: name, unit, description and attributes (semconv.py).

`counters.py` maps the kernel program's counters to these metrics. `make docs` generates docs/metrics.md from this file.
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
    """A metric. `keys` are the names of the metric's attributes, in the order of docs/metrics.md."""

    name: str
    unit: str
    description: str
    keys: tuple[str, ...]
    kind: str = "counter"


RTT = Metric(
    "epping.rtt.duration",
    "s",
    "Round-trip time from the observing interface to the subnet that replied, and back.",
    (SUBNET, NETWORK_TYPE, NETWORK_TRANSPORT, INTERFACE, SIDE, METHOD),
    "exponential histogram",
)

_SUBNET_KEYS = (SUBNET, NETWORK_TYPE, INTERFACE, SIDE)
_DIRECTED_KEYS = (*_SUBNET_KEYS, SUBNET_DIRECTION)
SUBNET_PACKETS = Metric(
    "epping.network.packet.count",
    "{packet}",
    "Packets from and to a subnet. Each packet is counted twice: with `from` for the subnet of its source, and with "
    "`to` for the subnet of its destination. TCP packets of the class `tcp_other` have no timestamps, so the method "
    "`tcp_timestamp` cannot measure their round-trip times.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_BYTES = Metric(
    "epping.network.io",
    "By",
    "Bytes from and to a subnet, including link headers. The bytes of each packet are counted twice: for the subnet of "
    "its source, and for the subnet of its destination.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_ECN = Metric(
    "epping.network.ecn.packet.count",
    "{packet}",
    "IP packets from and to a subnet, by ECN code point. Packets without ECN (`not_ect`) are not counted.",
    (*_DIRECTED_KEYS, ECN),
)
RETRANSMITTED = Metric(
    "epping.tcp.retransmission.count",
    "{segment}",
    "Retransmitted TCP segments from and to a subnet.",
    _DIRECTED_KEYS,
)
OUT_OF_ORDER = Metric(
    "epping.tcp.out_of_order.count",
    "{segment}",
    "Out-of-order TCP segments from and to a subnet. Such a segment arrived after a later segment of its flow.",
    _DIRECTED_KEYS,
)
ZERO_WINDOW = Metric(
    "epping.tcp.zero_window.count",
    "{segment}",
    "TCP segments with a window of zero, from and to a subnet. The receive buffer of the host that sent such a segment "
    "is full.",
    _DIRECTED_KEYS,
)
OPENED = Metric(
    "epping.flow.opened.count",
    "{flow}",
    "Opened TCP flows. Each flow is counted for the subnets of both endpoints.",
    (*_SUBNET_KEYS, FLOW_OPENING),
)
CLOSED = Metric(
    "epping.flow.closed.count",
    "{flow}",
    "Closed TCP flows. Each flow is counted for the subnets of both endpoints.",
    (*_SUBNET_KEYS, FLOW_CLOSING),
)

ACTIVE_FLOWS = Metric(
    "epping.flow.active",
    "{flow}",
    "Open TCP flows with a packet in the last 5 minutes. Each flow is counted for the subnets of both endpoints.",
    _SUBNET_KEYS,
    "updowncounter",
)

INTERFACE_PACKETS = Metric(
    "epping.interface.packet.count",
    "{packet}",
    "Packets seen on an interface. Each packet is counted once. Packets of the kinds `non_ip` and `malformed` are "
    "counted only here, and not for subnets.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
INTERFACE_BYTES = Metric(
    "epping.interface.io",
    "By",
    "Bytes seen on an interface, including link headers.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
ECN_PACKETS = Metric(
    "epping.ecn.packet.count", "{packet}", "IP packets seen on an interface, by ECN code point.", (INTERFACE, ECN)
)
FLOWS = Metric(
    "epping.flow.count", "{flow}", "TCP flows for which an entry was created in the flow table.", (INTERFACE,)
)
UNIDIRECTIONAL = Metric(
    "epping.flow.unidirectional",
    "{flow}",
    "Active TCP flows of which only one direction is seen on an interface, so that no round-trip time can be measured. "
    "The value is updated every 30 s, when the flow table is scanned. The metric is exported only for interfaces on "
    "which such a flow was seen.",
    (INTERFACE, FLOW_REVERSE),
    "updowncounter",
)
MEASUREMENTS = Metric(
    "epping.agent.measurement.count",
    "{measurement}",
    "Packets that were selected to start an RTT sample, and the outcomes of RTT samples.",
    (INTERFACE, OUTCOME),
)
TIMESTAMPS_FAILED = Metric(
    "epping.agent.timestamp.fault.count",
    "{fault}",
    "Directions of TCP flows in which the TCP timestamps stopped working. Further round-trip times of such a direction "
    "are measured with sequence numbers.",
    (INTERFACE, TIMESTAMP_FAULT),
)
DUPLICATES = Metric(
    "epping.interface.duplicate.count",
    "{packet}",
    "Packets that were captured a second time, for example at a mirror port. The second copy is counted for the "
    "interface, but not for subnets.",
    (INTERFACE,),
)
CLAMPED = Metric(
    "epping.agent.rtt.clamped",
    "{rtt}",
    "Round-trip times outside the range of the histograms. Such an RTT is counted as the nearest bound of the range.",
    (INTERFACE, BOUND),
)
INSERT_FAILED = Metric(
    "epping.agent.insert.failed",
    "{entry}",
    "Entries that could not be inserted into a table because the table was full. Packets of a subnet without an entry "
    "are counted on the overflow point.",
    (INTERFACE, MAP),
)

INTERFACE_ATTACHED = Metric(
    "epping.agent.interface.attached",
    "{interface}",
    "1 if the kernel program is attached to both hooks of the interface, otherwise 0. An interface that is no longer "
    "watched has the value 0 until its last counts are delivered.",
    (INTERFACE,),
    "updowncounter",
)
INTERFACE_KERNEL_PACKETS = Metric(
    "epping.agent.interface.packet.count",
    "{packet}",
    "Packets that the kernel itself counted while the interface was watched, as in `ip -s link`. Compare this metric "
    "with `epping.interface.packet.count`, which counts every packet of a GSO or GRO aggregate. The kernel may count "
    "an aggregate as one packet.",
    (INTERFACE, IO_DIRECTION),
    "updowncounter",
)
SUBNET_USAGE = Metric(
    "epping.agent.subnet.usage",
    "{subnet}",
    "Slots in use. Each combination of subnet, interface and side needs a slot.",
    (),
    "updowncounter",
)
FLOW_USAGE = Metric(
    "epping.agent.flow.usage",
    "{flow}",
    "TCP flow table entries in use. The table consists of sets. When a set is full, a closed flow or a flow seen in "
    "only one direction is evicted first, then the flow that has been idle longest.",
    (),
    "updowncounter",
)
FLOW_LIMIT = Metric(
    "epping.agent.flow.limit", "{flow}", "Maximum number of TCP flow table entries.", (), "updowncounter"
)
SUBNET_LIMIT = Metric("epping.agent.subnet.limit", "{subnet}", "Number of slots.", (), "updowncounter")
SUBNET_UNANSWERED = Metric(
    "epping.agent.subnet.unanswered",
    "{subnet}",
    "Estimated number of subnets that sent or received packets since the previous export and for which no round-trip "
    "time was ever measured.",
    (),
    "updowncounter",
)
SUBNET_RETIRED = Metric(
    "epping.agent.subnet.retired",
    "{subnet}",
    "Slots that were reclaimed because their subnet was idle for `idle_timeout`, or to make room for other subnets. "
    "Slots of subnets for which no round-trip time was ever measured are not counted.",
    (),
)
SERIES_USAGE = Metric(
    "epping.agent.series.usage",
    "{subnet}",
    "Subnets and covering prefixes exported individually.",
    (),
    "updowncounter",
)
SERIES_LIMIT = Metric(
    "epping.agent.series.limit",
    "{subnet}",
    "Maximum number of subnets and covering prefixes exported individually.",
    (),
    "updowncounter",
)
SERIES_OVERFLOWED = Metric(
    "epping.agent.series.overflowed",
    "{subnet}",
    "Subnets whose counts are summed on the overflow point because of a limit.",
    (),
    "updowncounter",
)
SERIES_ROLLED_UP = Metric(
    "epping.agent.series.rolled_up",
    "{subnet}",
    "Subnets whose counts are summed in covering prefixes because of a limit.",
    (),
    "updowncounter",
)
# The metrics from here on are instruments of the SDK (self_metrics.py). An SDK reader exports nothing until at least
# one instrument has data.
READ_DURATION = Metric(
    "epping.agent.read.duration", "s", "Duration of the latest reading of the kernel's maps.", (), "gauge"
)
EXPORT_DURATION = Metric(
    "epping.agent.export.duration",
    "s",
    "Duration of the latest export, including the reading of the maps. With several exporters, the longest duration.",
    (),
    "gauge",
)
EXPORT_FAILED = Metric(
    "epping.agent.export.failed",
    "{request}",
    "Failed export requests. The counts of a failed request stay pending for the next export.",
    (),
)
EXPORT_REJECTED = Metric(
    "epping.agent.export.rejected",
    "{data_point}",
    "Data points that the receiver rejected in partly accepted requests. Rejected points are not resent.",
    (),
)
INTERFACE_EVENTS = Metric(
    "epping.agent.interface.event.count",
    "{event}",
    "Events of selected interfaces, and events of the kernel program that is attached to these interfaces.",
    (INTERFACE_EVENT,),
)
FLOW_EVICTED = Metric(
    "epping.agent.flow.evicted",
    "{flow}",
    "TCP flows evicted from the flow table to make room for other flows.",
    (),
)
PROGRAM_RUNS = Metric(
    "epping.agent.program.run.count",
    "{run}",
    "Runs of the kernel program. Runs are counted only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
PROGRAM_TIME = Metric(
    "epping.agent.program.time",
    "s",
    "Run time of the kernel program. The time is measured only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
MEMORY_USAGE = Metric(
    "epping.agent.memory.usage",
    "By",
    "Resident memory of the exporting process: the agent, or the application that uses the library.",
    (),
    "updowncounter",
)
# No metric contains the version of otel-epping. The version is in the instrumentation scope and in the agent's
# `service.version`.

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
