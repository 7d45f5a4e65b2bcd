# SPDX-License-Identifier: Apache-2.0
"""Maps the counters of the kernel program to metrics and attributes.

`metric_table.py` describes the metrics. To export another counter, add an entry to SUBNET_COUNTERS or
INTERFACE_COUNTERS. The entries, unlike metric_table.py, depend on the structs of the kernel program.
"""

import dataclasses
from dataclasses import dataclass

from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric import Metric


@dataclass(frozen=True)
class Counter:
    """Maps a counter field in the records of a reading to a metric and attributes.

    metric      the metric of the data points
    field       name of the field; the name of a field inside a struct has a dot, as in "received.packets"
    axis        if the field is an array: the attribute that distinguishes the elements, and the attribute's value for
                each element; None if the field is a single number
    attributes  attributes that all data points of the field have
    """

    metric: Metric
    field: str
    axis: tuple[str, tuple[str, ...]] | None = None
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


_CLASS_AXIS = (semconv.TRAFFIC_CLASS, semconv.TRAFFIC_CLASSES)
_ECN_AXIS = (semconv.ECN, semconv.ECN_CODEPOINTS[1:])
_DIRECTION_AXIS = (semconv.SUBNET_DIRECTION, semconv.SUBNET_DIRECTIONS)
# Fields of the record that a reading has for each row (kernel/read/subnet_counters.py).
SUBNET_COUNTERS = (
    Counter(metric_table.SUBNET_PACKETS, "classes.from.packets", _CLASS_AXIS, {semconv.SUBNET_DIRECTION: "from"}),
    Counter(metric_table.SUBNET_PACKETS, "classes.to.packets", _CLASS_AXIS, {semconv.SUBNET_DIRECTION: "to"}),
    Counter(metric_table.SUBNET_BYTES, "classes.from.bytes", _CLASS_AXIS, {semconv.SUBNET_DIRECTION: "from"}),
    Counter(metric_table.SUBNET_BYTES, "classes.to.bytes", _CLASS_AXIS, {semconv.SUBNET_DIRECTION: "to"}),
    Counter(metric_table.SUBNET_ECN, "ecn_from", _ECN_AXIS, {semconv.SUBNET_DIRECTION: "from"}),
    Counter(metric_table.SUBNET_ECN, "ecn_to", _ECN_AXIS, {semconv.SUBNET_DIRECTION: "to"}),
    Counter(metric_table.RETRANSMITTED, "retransmitted", _DIRECTION_AXIS),
    Counter(metric_table.OUT_OF_ORDER, "out_of_order", _DIRECTION_AXIS),
    Counter(metric_table.ZERO_WINDOW, "zero_window", _DIRECTION_AXIS),
    Counter(metric_table.OPENED, "opened", (semconv.FLOW_OPENING, semconv.FLOW_OPENINGS)),
    Counter(metric_table.CLOSED, "closed", (semconv.FLOW_CLOSING, semconv.FLOW_CLOSINGS)),
    Counter(metric_table.CLOSED, "silence", attributes={semconv.FLOW_CLOSING: "silence"}),
)

_FAULT_AXIS = (semconv.TIMESTAMP_FAULT, semconv.TIMESTAMP_FAULTS)
_KIND_AXIS = (semconv.PACKET_KIND, semconv.PACKET_KINDS)
# Fields of struct interface_counters of the kernel program (bpf/maps.h).
INTERFACE_COUNTERS = (
    Counter(metric_table.INTERFACE_PACKETS, "received.packets", _KIND_AXIS, {semconv.IO_DIRECTION: "receive"}),
    Counter(metric_table.INTERFACE_PACKETS, "transmitted.packets", _KIND_AXIS, {semconv.IO_DIRECTION: "transmit"}),
    Counter(metric_table.INTERFACE_BYTES, "received.bytes", _KIND_AXIS, {semconv.IO_DIRECTION: "receive"}),
    Counter(metric_table.INTERFACE_BYTES, "transmitted.bytes", _KIND_AXIS, {semconv.IO_DIRECTION: "transmit"}),
    Counter(metric_table.ECN_PACKETS, "ecn", (semconv.ECN, semconv.ECN_CODEPOINTS)),
    Counter(metric_table.FLOWS, "flows_created"),
    Counter(metric_table.MEASUREMENTS, "rtt_begun", attributes={semconv.OUTCOME: "begun"}),
    Counter(metric_table.MEASUREMENTS, "rtt_not_begun", attributes={semconv.OUTCOME: "not_begun"}),
    Counter(metric_table.MEASUREMENTS, "rtt_expired", attributes={semconv.OUTCOME: "expired"}),
    Counter(metric_table.MEASUREMENTS, "rtt_superseded", attributes={semconv.OUTCOME: "superseded"}),
    Counter(metric_table.MEASUREMENTS, "rtt_repeated", attributes={semconv.OUTCOME: "repeated"}),
    Counter(metric_table.MEASUREMENTS, "rtt_abandoned", attributes={semconv.OUTCOME: "abandoned"}),
    Counter(metric_table.MEASUREMENTS, "rtt_measured", attributes={semconv.OUTCOME: "measured"}),
    Counter(metric_table.TIMESTAMPS_FAILED, "timestamp_fault", _FAULT_AXIS),
    Counter(metric_table.DUPLICATES, "duplicates"),
    Counter(metric_table.CLAMPED, "rtt_clamped", (semconv.BOUND, semconv.BOUNDS)),
    Counter(metric_table.INSERT_FAILED, "flow_insert_failed", attributes={semconv.MAP: "flows"}),
    Counter(metric_table.INSERT_FAILED, "subnet_insert_failed", attributes={semconv.MAP: "subnets"}),
)
