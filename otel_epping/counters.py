# SPDX-License-Identifier: Apache-2.0
"""Which field of what the kernel program counts makes which points of which metric.

The names are in `telemetry.py`. To add a counter, add a row: it changes with the program's structs, names do not.
"""

import dataclasses
from dataclasses import dataclass

from otel_epping import conventions, telemetry


@dataclass(frozen=True)
class Counter:
    """A field of the records of a reading, and the points that come of it.

    `field` may go into a struct, as in "received.packets". Where it is an array, `axis` gives attribute and values.
    """

    metric: telemetry.Metric
    field: str
    axis: tuple[str, tuple[str, ...]] | None = None
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


_CLASS_AXIS = (conventions.TRAFFIC_CLASS, conventions.TRAFFIC_CLASSES)
_ECN_AXIS = (conventions.ECN, conventions.ECN_CODEPOINTS[1:])
_DIRECTION_AXIS = (conventions.SUBNET_DIRECTION, conventions.SUBNET_DIRECTIONS)
# Fields of the records of kernel/read/subnet_counters.py.
SUBNET_COUNTERS = (
    Counter(telemetry.SUBNET_PACKETS, "classes.from.packets", _CLASS_AXIS, {conventions.SUBNET_DIRECTION: "from"}),
    Counter(telemetry.SUBNET_PACKETS, "classes.to.packets", _CLASS_AXIS, {conventions.SUBNET_DIRECTION: "to"}),
    Counter(telemetry.SUBNET_BYTES, "classes.from.bytes", _CLASS_AXIS, {conventions.SUBNET_DIRECTION: "from"}),
    Counter(telemetry.SUBNET_BYTES, "classes.to.bytes", _CLASS_AXIS, {conventions.SUBNET_DIRECTION: "to"}),
    Counter(telemetry.SUBNET_ECN, "ecn_from", _ECN_AXIS, {conventions.SUBNET_DIRECTION: "from"}),
    Counter(telemetry.SUBNET_ECN, "ecn_to", _ECN_AXIS, {conventions.SUBNET_DIRECTION: "to"}),
    Counter(telemetry.RETRANSMITTED, "retransmitted", _DIRECTION_AXIS),
    Counter(telemetry.OUT_OF_ORDER, "out_of_order", _DIRECTION_AXIS),
    Counter(telemetry.ZERO_WINDOW, "zero_window", _DIRECTION_AXIS),
    Counter(telemetry.OPENED, "opened", (conventions.FLOW_OPENING, conventions.FLOW_OPENINGS)),
    Counter(telemetry.CLOSED, "closed", (conventions.FLOW_CLOSING, conventions.FLOW_CLOSINGS)),
    Counter(telemetry.CLOSED, "silence", attributes={conventions.FLOW_CLOSING: "silence"}),
)

_FAULT_AXIS = (conventions.TIMESTAMP_FAULT, conventions.TIMESTAMP_FAULTS)
_KIND_AXIS = (conventions.PACKET_KIND, conventions.PACKET_KINDS)
# Fields of the program's struct interface_counters.
INTERFACE_COUNTERS = (
    Counter(telemetry.INTERFACE_PACKETS, "received.packets", _KIND_AXIS, {conventions.IO_DIRECTION: "receive"}),
    Counter(telemetry.INTERFACE_PACKETS, "transmitted.packets", _KIND_AXIS, {conventions.IO_DIRECTION: "transmit"}),
    Counter(telemetry.INTERFACE_BYTES, "received.bytes", _KIND_AXIS, {conventions.IO_DIRECTION: "receive"}),
    Counter(telemetry.INTERFACE_BYTES, "transmitted.bytes", _KIND_AXIS, {conventions.IO_DIRECTION: "transmit"}),
    Counter(telemetry.ECN_PACKETS, "ecn", (conventions.ECN, conventions.ECN_CODEPOINTS)),
    Counter(telemetry.FLOWS, "flows_created"),
    Counter(telemetry.MEASUREMENTS, "rtt_begun", attributes={conventions.OUTCOME: "begun"}),
    Counter(telemetry.MEASUREMENTS, "rtt_not_begun", attributes={conventions.OUTCOME: "not_begun"}),
    Counter(telemetry.MEASUREMENTS, "rtt_expired", attributes={conventions.OUTCOME: "expired"}),
    Counter(telemetry.MEASUREMENTS, "rtt_superseded", attributes={conventions.OUTCOME: "superseded"}),
    Counter(telemetry.MEASUREMENTS, "rtt_repeated", attributes={conventions.OUTCOME: "repeated"}),
    Counter(telemetry.MEASUREMENTS, "rtt_abandoned", attributes={conventions.OUTCOME: "abandoned"}),
    Counter(telemetry.MEASUREMENTS, "rtt_measured", attributes={conventions.OUTCOME: "measured"}),
    Counter(telemetry.TIMESTAMPS_FAILED, "timestamp_fault", _FAULT_AXIS),
    Counter(telemetry.DUPLICATES, "duplicates"),
    Counter(telemetry.CLAMPED, "rtt_clamped", (conventions.BOUND, conventions.BOUNDS)),
    Counter(telemetry.INSERT_FAILED, "flow_insert_failed", attributes={conventions.MAP: "flows"}),
    Counter(telemetry.INSERT_FAILED, "subnet_insert_failed", attributes={conventions.MAP: "subnets"}),
)
