# SPDX-License-Identifier: Apache-2.0
"""Defines the metrics that otel-epping exports: name, unit, description and attributes (semconv.py).

`counters.py` maps the kernel program's counters to these metrics. `agent_metrics.py` defines the metrics of the
exporting process. `make docs` generates docs/metrics.md and schemas/ from these files and from `semconv.py`.
"""

from otel_epping.otel import agent_metrics
from otel_epping.otel.metric import AGENT, ECN_GROUP, FLOW, INTERFACES, RTTS, TCP, TRAFFIC, Metric
from otel_epping.otel.semconv import (
    AS_NUMBER,
    AS_ORGANIZATION,
    BOUND,
    COUNTRY,
    ECN,
    FLOW_CLOSING,
    FLOW_OPENING,
    FLOW_REVERSE,
    INTERFACE,
    IO_DIRECTION,
    MAP,
    METHOD,
    NETWORK_NAME,
    NETWORK_TAG,
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

# The attributes that say what a series stands for. No point has all of these attributes (series/grouping.py).
NETWORK_KEYS = (SUBNET, NETWORK_TYPE, NETWORK_NAME, NETWORK_TAG, AS_NUMBER, AS_ORGANIZATION, COUNTRY)

RTT = Metric(
    RTTS,
    "epping.rtt.duration",
    "s",
    "Round-trip time from the observing interface to the subnet that replied, and back.",
    (*NETWORK_KEYS, NETWORK_TRANSPORT, INTERFACE, SIDE, METHOD),
    "exponential histogram",
)

_SUBNET_KEYS = (*NETWORK_KEYS, INTERFACE, SIDE)
_DIRECTED_KEYS = (*_SUBNET_KEYS, SUBNET_DIRECTION)
SUBNET_PACKETS = Metric(
    TRAFFIC,
    "epping.network.packet.count",
    "{packet}",
    "Packets from and to a subnet. Each packet is counted twice: with `from` for the subnet of its source, and with "
    "`to` for the subnet of its destination. TCP packets of the class `tcp_other` have no timestamps, so the method "
    "`tcp_timestamp` cannot measure their round-trip times.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_BYTES = Metric(
    TRAFFIC,
    "epping.network.io",
    "By",
    "Bytes from and to a subnet, including link headers. The bytes of each packet are counted twice: for the subnet of "
    "its source, and for the subnet of its destination.",
    (*_DIRECTED_KEYS, TRAFFIC_CLASS),
)
SUBNET_ECN = Metric(
    ECN_GROUP,
    "epping.network.ecn.packet.count",
    "{packet}",
    "IP packets from and to a subnet, by ECN code point. Packets without ECN (`not_ect`) are not counted.",
    (*_DIRECTED_KEYS, ECN),
)
RETRANSMITTED = Metric(
    TCP,
    "epping.tcp.retransmission.count",
    "{segment}",
    "Retransmitted TCP segments from and to a subnet.",
    _DIRECTED_KEYS,
)
OUT_OF_ORDER = Metric(
    TCP,
    "epping.tcp.out_of_order.count",
    "{segment}",
    "Out-of-order TCP segments from and to a subnet. Such a segment arrived after a later segment of its flow.",
    _DIRECTED_KEYS,
)
ZERO_WINDOW = Metric(
    TCP,
    "epping.tcp.zero_window.count",
    "{segment}",
    "TCP segments with a window of zero, from and to a subnet. The receive buffer of the host that sent such a segment "
    "is full.",
    _DIRECTED_KEYS,
)
OPENED = Metric(
    FLOW,
    "epping.flow.opened.count",
    "{flow}",
    "Opened TCP flows. Each flow is counted for the subnets of both endpoints.",
    (*_SUBNET_KEYS, FLOW_OPENING),
)
CLOSED = Metric(
    FLOW,
    "epping.flow.closed.count",
    "{flow}",
    "Closed TCP flows. Each flow is counted for the subnets of both endpoints.",
    (*_SUBNET_KEYS, FLOW_CLOSING),
)

ACTIVE_FLOWS = Metric(
    FLOW,
    "epping.flow.active",
    "{flow}",
    "Open TCP flows with a packet in the last 5 minutes. Each flow is counted for the subnets of both endpoints.",
    _SUBNET_KEYS,
    "updowncounter",
)

INTERFACE_PACKETS = Metric(
    INTERFACES,
    "epping.interface.packet.count",
    "{packet}",
    "Packets seen on an interface. Each packet is counted once. Packets of the kinds `non_ip` and `malformed` are "
    "counted only here, and not for subnets.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
INTERFACE_BYTES = Metric(
    INTERFACES,
    "epping.interface.io",
    "By",
    "Bytes seen on an interface, including link headers.",
    (INTERFACE, IO_DIRECTION, PACKET_KIND),
)
ECN_PACKETS = Metric(
    ECN_GROUP,
    "epping.ecn.packet.count",
    "{packet}",
    "IP packets seen on an interface, by ECN code point.",
    (INTERFACE, ECN),
)
FLOWS = Metric(
    INTERFACES,
    "epping.flow.count",
    "{flow}",
    "TCP flows for which an entry was created in the flow table.",
    (INTERFACE,),
)
UNIDIRECTIONAL = Metric(
    INTERFACES,
    "epping.flow.unidirectional",
    "{flow}",
    "Active TCP flows of which only one direction is seen on an interface, so that no round-trip time can be measured. "
    "The value is updated every 30 s, when the flow table is scanned. The metric is exported only for interfaces on "
    "which such a flow was seen.",
    (INTERFACE, FLOW_REVERSE),
    "updowncounter",
)
MEASUREMENTS = Metric(
    AGENT,
    "epping.agent.measurement.count",
    "{measurement}",
    "Packets that were selected to start an RTT sample, and the outcomes of RTT samples.",
    (INTERFACE, OUTCOME),
)
TIMESTAMPS_FAILED = Metric(
    AGENT,
    "epping.agent.timestamp.fault.count",
    "{fault}",
    "Directions of TCP flows in which the TCP timestamps stopped working. Further round-trip times of such a direction "
    "are measured with sequence numbers.",
    (INTERFACE, TIMESTAMP_FAULT),
)
DUPLICATES = Metric(
    INTERFACES,
    "epping.interface.duplicate.count",
    "{packet}",
    "Packets that were captured a second time, for example at a mirror port. The second copy is counted for the "
    "interface, but not for subnets.",
    (INTERFACE,),
)
CLAMPED = Metric(
    AGENT,
    "epping.agent.rtt.clamped",
    "{rtt}",
    "Round-trip times outside the range of the histograms. Such an RTT is counted as the nearest bound of the range.",
    (INTERFACE, BOUND),
)
INSERT_FAILED = Metric(
    AGENT,
    "epping.agent.insert.failed",
    "{entry}",
    "Entries that could not be inserted into a table because the table was full. Packets of a subnet without an entry "
    "are counted on the overflow point.",
    (INTERFACE, MAP),
)

INTERFACE_ATTACHED = Metric(
    AGENT,
    "epping.agent.interface.attached",
    "{interface}",
    "1 if the kernel program is attached to both hooks of the interface, otherwise 0. An interface that is no longer "
    "watched has the value 0 until its last counts are delivered.",
    (INTERFACE,),
    "updowncounter",
)
INTERFACE_KERNEL_PACKETS = Metric(
    AGENT,
    "epping.agent.interface.packet.count",
    "{packet}",
    "Packets that the kernel itself counted while the interface was watched, as in `ip -s link`. Compare this metric "
    "with `epping.interface.packet.count`, which counts every packet of a GSO or GRO aggregate. The kernel may count "
    "an aggregate as one packet.",
    (INTERFACE, IO_DIRECTION),
    "updowncounter",
)
# No metric contains the version of otel-epping. The version is in the instrumentation scope and in the agent's
# `service.version`.

METRICS = (*(value for value in list(globals().values()) if isinstance(value, Metric)), *agent_metrics.METRICS)
