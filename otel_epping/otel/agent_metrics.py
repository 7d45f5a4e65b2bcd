# SPDX-License-Identifier: Apache-2.0
"""Defines the metrics of the exporting process, and of the tables of the kernel program (metric_table.py)."""

from otel_epping.otel.metric import AGENT, Metric
from otel_epping.otel.semconv import INTERFACE_EVENT, IO_DIRECTION

SUBNET_USAGE = Metric(
    AGENT,
    "epping.agent.subnet.usage",
    "{subnet}",
    "Slots in use. Each combination of subnet, interface and side needs a slot.",
    (),
    "updowncounter",
)
FLOW_USAGE = Metric(
    AGENT,
    "epping.agent.flow.usage",
    "{flow}",
    "TCP flow table entries in use. The table consists of sets. When a set is full, a closed flow or a flow seen in "
    "only one direction is evicted first, then the flow that has been idle longest.",
    (),
    "updowncounter",
)
FLOW_LIMIT = Metric(
    AGENT, "epping.agent.flow.limit", "{flow}", "Maximum number of TCP flow table entries.", (), "updowncounter"
)
SUBNET_LIMIT = Metric(AGENT, "epping.agent.subnet.limit", "{subnet}", "Number of slots.", (), "updowncounter")
SUBNET_UNANSWERED = Metric(
    AGENT,
    "epping.agent.subnet.unanswered",
    "{subnet}",
    "Estimated number of subnets that sent or received packets since the previous export and for which no round-trip "
    "time was ever measured.",
    (),
    "updowncounter",
)
SUBNET_RETIRED = Metric(
    AGENT,
    "epping.agent.subnet.retired",
    "{subnet}",
    "Slots that were reclaimed because their subnet was idle for `idle_timeout`, or to make room for other subnets. "
    "Slots of subnets for which no round-trip time was ever measured are not counted.",
    (),
)
SERIES_USAGE = Metric(
    AGENT,
    "epping.agent.series.usage",
    "{subnet}",
    "Subnets, covering prefixes, named networks and groups exported individually.",
    (),
    "updowncounter",
)
SERIES_LIMIT = Metric(
    AGENT,
    "epping.agent.series.limit",
    "{subnet}",
    "Maximum number of subnets, covering prefixes, named networks and groups exported individually.",
    (),
    "updowncounter",
)
SERIES_OVERFLOWED = Metric(
    AGENT,
    "epping.agent.series.overflowed",
    "{subnet}",
    "Subnets, named networks and groups whose counts are summed on the overflow point because of a limit.",
    (),
    "updowncounter",
)
SERIES_ROLLED_UP = Metric(
    AGENT,
    "epping.agent.series.rolled_up",
    "{subnet}",
    "Subnets whose counts are summed in covering prefixes because of a limit.",
    (),
    "updowncounter",
)
# The metrics from here on are instruments of the SDK (self_metrics.py).
READ_DURATION = Metric(
    AGENT, "epping.agent.read.duration", "s", "Duration of the latest reading of the kernel's maps.", (), "gauge"
)
EXPORT_DURATION = Metric(
    AGENT,
    "epping.agent.export.duration",
    "s",
    "Duration of the latest export, including the reading of the maps. With several exporters, the longest duration.",
    (),
    "gauge",
)
EXPORT_FAILED = Metric(
    AGENT,
    "epping.agent.export.failed",
    "{request}",
    "Failed export requests. The counts of a failed request stay pending for the next export.",
    (),
)
EXPORT_REJECTED = Metric(
    AGENT,
    "epping.agent.export.rejected",
    "{data_point}",
    "Data points that the receiver rejected in partly accepted requests. Rejected points are not resent.",
    (),
)
INTERFACE_EVENTS = Metric(
    AGENT,
    "epping.agent.interface.event.count",
    "{event}",
    "Events of selected interfaces, and events of the kernel program that is attached to these interfaces.",
    (INTERFACE_EVENT,),
)
FLOW_EVICTED = Metric(
    AGENT,
    "epping.agent.flow.evicted",
    "{flow}",
    "TCP flows evicted from the flow table to make room for other flows.",
    (),
)
PROGRAM_RUNS = Metric(
    AGENT,
    "epping.agent.program.run.count",
    "{run}",
    "Runs of the kernel program. Runs are counted only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
PROGRAM_TIME = Metric(
    AGENT,
    "epping.agent.program.time",
    "s",
    "Run time of the kernel program. The time is measured only while the sysctl `kernel.bpf_stats_enabled` is 1.",
    (IO_DIRECTION,),
)
MEMORY_USAGE = Metric(
    AGENT,
    "epping.agent.memory.usage",
    "By",
    "Resident memory of the exporting process: the agent, or the application that uses the library.",
    (),
    "updowncounter",
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
