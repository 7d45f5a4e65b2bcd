# SPDX-License-Identifier: Apache-2.0
"""Defines the properties that the tables of metrics list for each metric (metric_table.py, agent_metrics.py)."""

from dataclasses import dataclass

from otel_epping.otel.semconv import AGGREGATES, ATTRIBUTES, MAY_BE_ON_SUBNETS, ON_AGGREGATES, ON_SUBNETS, SUBNET, Level

# The groups of metrics in the setting `metrics`.
RTTS, TRAFFIC, TCP, FLOW, ECN_GROUP, INTERFACES, AGENT = "rtt", "traffic", "tcp", "flows", "ecn", "interface", "agent"
GROUPS = (RTTS, TRAFFIC, TCP, FLOW, ECN_GROUP, INTERFACES, AGENT)


@dataclass(frozen=True)
class Metric:
    """A metric. `keys` are the names of the metric's attributes, in the order of docs/metrics.md.

    `group` is one of GROUPS. `stability` is a stability level of OpenTelemetry.
    """

    group: str
    name: str
    unit: str
    description: str
    keys: tuple[str, ...]
    kind: str = "counter"
    stability: str = "development"

    def requirement_levels(self) -> dict[str, Level]:
        """Returns the requirement level of each attribute. The setting `attributes` can leave out some attributes."""
        if SUBNET not in self.keys:
            return {key: "required" if ATTRIBUTES[key].needed else "recommended" for key in self.keys}
        levels: dict[str, Level] = {
            key: ON_SUBNETS if ATTRIBUTES[key].needed else MAY_BE_ON_SUBNETS for key in self.keys
        }
        return levels | dict.fromkeys(AGGREGATES, ON_AGGREGATES)
