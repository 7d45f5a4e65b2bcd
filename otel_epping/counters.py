# SPDX-License-Identifier: Apache-2.0
"""Which field of what the kernel program counts makes which points of which metric.

The names are in `telemetry.py`. To add a counter, add a row: it changes with the program's structs, names do not.
"""

import dataclasses
from dataclasses import dataclass

from otel_epping import telemetry


@dataclass(frozen=True)
class Counter:
    """A field of the records of a reading, and the points that come of it.

    `field` may go into a struct, as in "received.packets". Where it is an array, `axis` gives attribute and values.
    """

    metric: telemetry.Metric
    field: str
    axis: tuple[str, tuple[str, ...]] | None = None
    attributes: dict[str, str] = dataclasses.field(default_factory=dict)


_CLASS_AXIS = (telemetry.TRAFFIC_CLASS, telemetry.TRAFFIC_CLASSES)
_ECN_AXIS = (telemetry.ECN, telemetry.ECN_CODEPOINTS[1:])
_DIRECTION_AXIS = (telemetry.SUBNET_DIRECTION, telemetry.SUBNET_DIRECTIONS)
# Fields of the records of kernel/subnet_counters.py.
SUBNET_COUNTERS = (
    Counter(telemetry.SUBNET_PACKETS, "classes.from.packets", _CLASS_AXIS, {telemetry.SUBNET_DIRECTION: "from"}),
    Counter(telemetry.SUBNET_PACKETS, "classes.to.packets", _CLASS_AXIS, {telemetry.SUBNET_DIRECTION: "to"}),
    Counter(telemetry.SUBNET_BYTES, "classes.from.bytes", _CLASS_AXIS, {telemetry.SUBNET_DIRECTION: "from"}),
    Counter(telemetry.SUBNET_BYTES, "classes.to.bytes", _CLASS_AXIS, {telemetry.SUBNET_DIRECTION: "to"}),
    Counter(telemetry.SUBNET_ECN, "ecn_from", _ECN_AXIS, {telemetry.SUBNET_DIRECTION: "from"}),
    Counter(telemetry.SUBNET_ECN, "ecn_to", _ECN_AXIS, {telemetry.SUBNET_DIRECTION: "to"}),
    Counter(telemetry.RETRANSMITTED, "retransmitted", _DIRECTION_AXIS),
    Counter(telemetry.OUT_OF_ORDER, "out_of_order", _DIRECTION_AXIS),
    Counter(telemetry.ZERO_WINDOW, "zero_window", _DIRECTION_AXIS),
    Counter(telemetry.OPENED, "opened", (telemetry.FLOW_OPENING, telemetry.FLOW_OPENINGS)),
    Counter(telemetry.CLOSED, "closed", (telemetry.FLOW_CLOSING, telemetry.FLOW_CLOSINGS)),
    Counter(telemetry.CLOSED, "silence", attributes={telemetry.FLOW_CLOSING: "silence"}),
)

_KIND_AXIS = (telemetry.PACKET_KIND, telemetry.PACKET_KINDS)
# Fields of the program's struct interface_counters.
INTERFACE_COUNTERS = (
    Counter(telemetry.INTERFACE_PACKETS, "received.packets", _KIND_AXIS, {telemetry.IO_DIRECTION: "receive"}),
    Counter(telemetry.INTERFACE_PACKETS, "transmitted.packets", _KIND_AXIS, {telemetry.IO_DIRECTION: "transmit"}),
    Counter(telemetry.INTERFACE_BYTES, "received.bytes", _KIND_AXIS, {telemetry.IO_DIRECTION: "receive"}),
    Counter(telemetry.INTERFACE_BYTES, "transmitted.bytes", _KIND_AXIS, {telemetry.IO_DIRECTION: "transmit"}),
    Counter(telemetry.ECN_PACKETS, "ecn", (telemetry.ECN, telemetry.ECN_CODEPOINTS)),
    Counter(telemetry.FLOWS, "flows_created"),
    Counter(telemetry.MEASUREMENTS, "rtt_begun", attributes={telemetry.OUTCOME: "begun"}),
    Counter(telemetry.MEASUREMENTS, "rtt_not_begun", attributes={telemetry.OUTCOME: "not_begun"}),
    Counter(telemetry.MEASUREMENTS, "rtt_expired", attributes={telemetry.OUTCOME: "expired"}),
    Counter(telemetry.MEASUREMENTS, "rtt_superseded", attributes={telemetry.OUTCOME: "superseded"}),
    Counter(telemetry.MEASUREMENTS, "rtt_repeated", attributes={telemetry.OUTCOME: "repeated"}),
    Counter(telemetry.MEASUREMENTS, "rtt_abandoned", attributes={telemetry.OUTCOME: "abandoned"}),
    Counter(telemetry.MEASUREMENTS, "rtt_measured", attributes={telemetry.OUTCOME: "measured"}),
    Counter(telemetry.TIMESTAMPS_FAILED, "timestamp_fault", (telemetry.TIMESTAMP_FAULT, telemetry.TIMESTAMP_FAULTS)),
    Counter(telemetry.DUPLICATES, "duplicates"),
    Counter(telemetry.CLAMPED, "rtt_clamped", (telemetry.BOUND, telemetry.BOUNDS)),
    Counter(telemetry.INSERT_FAILED, "flow_insert_failed", attributes={telemetry.MAP: "flows"}),
    Counter(telemetry.INSERT_FAILED, "subnet_insert_failed", attributes={telemetry.MAP: "subnets"}),
)
