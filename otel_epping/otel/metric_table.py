# SPDX-License-Identifier: Apache-2.0
"""Every metric that otel-epping exports: name, unit, description and attributes (semconv.py).

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
    """A metric. `keys` are its attributes, in the order of the documentation."""

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
    "Packets from and to a subnet. Each packet is counted twice: `from` its source's subnet and `to` its destination's "
    "subnet. TCP packets of the class `tcp_other` have no timestamps, so the method `tcp_timestamp` cannot time them.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_BYTES = Metric(
    "epping.network.io",
    "By",
    "Bytes from and to a subnet, including link headers. Each packet is counted for the subnets of its source "
    "and of its destination.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_ECN = Metric(
    "epping.network.ecn.packet.count",
    "{packet}",
    "IP packets from and to a subnet, by ECN code point. Packets without ECN (`not_ect`) are not counted here.",
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
    "TCP segments from and to a subnet that arrived after a later segment of their flow.",
    _DIRECTED_KEYS,
)
ZERO_WINDOW = Metric(
    "epping.tcp.zero_window.count",
    "{segment}",
    "TCP segments from and to a subnet that advertise a window of zero: the sender's receive buffer is full.",
    _DIRECTED_KEYS,
)
OPENED = Metric(
    "epping.flow.opened.count",
    "{flow}",
    "TCP flows opened. Each flow is counted for the subnets of both endpoints.",
    (*_SUBNET_KEYS, FLOW_OPENING),
)
CLOSED = Metric(
    "epping.flow.closed.count",
    "{flow}",
    "TCP flows closed. Each flow is counted for the subnets of both endpoints.",
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
    "Packets seen on an interface. Each packet is counted once here, and for two subnets unless it is `non_ip` or "
    "`malformed`.",
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
FLOWS = Metric("epping.flow.count", "{flow}", "TCP flows first seen on an interface.", (INTERFACE,))
UNIDIRECTIONAL = Metric(
    "epping.flow.unidirectional",
    "{flow}",
    "Active TCP flows of which only one direction is seen on an interface, so that no round-trip time can be measured. "
    "Updated every 30 s, when the flow table is scanned; exported for interfaces that have had such a flow.",
    (INTERFACE, FLOW_REVERSE),
    "updowncounter",
)
MEASUREMENTS = Metric(
    "epping.agent.measurement.count",
    "{measurement}",
    "Packets selected for an RTT sample, and the outcome of each sample.",
    (INTERFACE, OUTCOME),
)
TIMESTAMPS_FAILED = Metric(
    "epping.agent.timestamp.fault.count",
    "{fault}",
    "Directions of TCP flows whose timestamps stopped working. From then on, sequence numbers time them.",
    (INTERFACE, TIMESTAMP_FAULT),
)
DUPLICATES = Metric(
    "epping.interface.duplicate.count",
    "{packet}",
    "Packets that were captured twice, as at a mirror port. The second copy is counted for the interface only.",
    (INTERFACE,),
)
CLAMPED = Metric(
    "epping.agent.rtt.clamped",
    "{rtt}",
    "Round-trip times outside the range of the histograms. They are counted as the nearest bound of the range.",
    (INTERFACE, BOUND),
)
INSERT_FAILED = Metric(
    "epping.agent.insert.failed",
    "{entry}",
    "Entries that could not be inserted because a table was full. Packets of a subnet without an entry are counted on "
    "the overflow point.",
    (INTERFACE, MAP),
)

INTERFACE_ATTACHED = Metric(
    "epping.agent.interface.attached",
    "{interface}",
    "1 for a watched interface, 0 for an interface that is no longer watched and whose last counts are pending.",
    (INTERFACE,),
    "updowncounter",
)
INTERFACE_KERNEL_PACKETS = Metric(
    "epping.agent.interface.packet.count",
    "{packet}",
    "The kernel's own packet counters while an interface is watched, as in `ip -s link`. Compare them with "
    "`epping.interface.packet.count`, which counts every packet of a GSO or GRO aggregate; the kernel may count one.",
    (INTERFACE, IO_DIRECTION),
    "updowncounter",
)
SUBNET_USAGE = Metric("epping.agent.subnet.usage", "{subnet}", "Slots in use by subnets.", (), "updowncounter")
FLOW_USAGE = Metric(
    "epping.agent.flow.usage",
    "{flow}",
    "TCP flow table entries in use. When a set is full, a flow seen in only one direction is evicted first, then the "
    "flow that has been idle longest.",
    (),
    "updowncounter",
)
FLOW_LIMIT = Metric("epping.agent.flow.limit", "{flow}", "Size of the TCP flow table.", (), "updowncounter")
SUBNET_LIMIT = Metric("epping.agent.subnet.limit", "{subnet}", "Number of slots for subnets.", (), "updowncounter")
# Exported only with an idle timeout or limits on series (series/limits.py).
SUBNET_RETIRED = Metric(
    "epping.agent.subnet.retired",
    "{subnet}",
    "Slots freed because their subnet was idle for `idle_timeout`. Only with "
    "`idle_timeout`, `max_series` or `min_samples`.",
    (),
)
SERIES_USAGE = Metric(
    "epping.agent.series.usage",
    "{subnet}",
    "Subnets and covering prefixes exported individually. Only with `idle_timeout`, `max_series` or `min_samples`.",
    (),
    "updowncounter",
)
SERIES_LIMIT = Metric(
    "epping.agent.series.limit",
    "{subnet}",
    "Maximum number of subnets and covering prefixes exported individually. Only with "
    "`idle_timeout`, `max_series` or `min_samples`.",
    (),
    "updowncounter",
)
SERIES_OVERFLOWED = Metric(
    "epping.agent.series.overflowed",
    "{subnet}",
    "Subnets beyond the limits that are summed on the overflow point. Only with "
    "`idle_timeout`, `max_series` or `min_samples`.",
    (),
    "updowncounter",
)
SERIES_ROLLED_UP = Metric(
    "epping.agent.series.rolled_up",
    "{subnet}",
    "Subnets beyond the limits that are summed in covering prefixes. Only with "
    "`idle_timeout`, `max_series` or `min_samples`.",
    (),
    "updowncounter",
)
# From here on, instruments of the SDK (self_metrics.py). Without data of an instrument, an SDK reader never exports.
READ_DURATION = Metric(
    "epping.agent.read.duration", "s", "Duration of the latest reading of the kernel's maps.", (), "gauge"
)
EXPORT_DURATION = Metric(
    "epping.agent.export.duration",
    "s",
    "Duration of the latest export, including its reading. With several exporters, that of the slowest.",
    (),
    "gauge",
)
EXPORT_FAILED = Metric(
    "epping.agent.export.failed",
    "{request}",
    "Failed export requests. Their counts stay pending for the next export.",
    (),
)
EXPORT_REJECTED = Metric(
    "epping.agent.export.rejected",
    "{data_point}",
    "Data points rejected in requests that the receiver otherwise accepted. They are not resent.",
    (),
)
INTERFACE_EVENTS = Metric(
    "epping.agent.interface.event.count",
    "{event}",
    "Events of selected interfaces, and of the program on their hooks.",
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
    "Runs of the kernel program. Counted only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
PROGRAM_TIME = Metric(
    "epping.agent.program.time",
    "s",
    "Run time of the kernel program. Counted only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
MEMORY_USAGE = Metric(
    "epping.agent.memory.usage",
    "By",
    "Resident memory of the exporting process: the agent, or the application that uses the library.",
    (),
    "updowncounter",
)
# There is no metric for the version: it is the version of the scope, and `service.version` of the agent.

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
