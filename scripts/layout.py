# SPDX-License-Identifier: Apache-2.0
"""The variables of the dashboard, the names of columns and the positions of panels, for Grafana and for Perses."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from scripts.panels import Panel

TITLE = "Network latency (otel-epping)"
DESCRIPTION = "Round-trip times per network, measured passively. Guide: docs/dashboards.md of otel-epping."
NAME = "otel-epping"
RANGE, REFRESH = "6h", "1m"
# The default export interval of the agent. With this interval, $__rate_interval is at least 4 minutes.
EXPORT_INTERVAL = "1m"
# Without limits, the axis of a heat map extends to the outermost bucket that ever had a count.
HEAT_MAP_LIMITS_S = (0.0001, 10)

WIDTH = 24


class Labels(NamedTuple):
    """A variable with the values of a label. The user chooses one value, several values or all values."""

    name: str
    title: str
    metric: str
    label: str


class Choice(NamedTuple):
    """A variable with fixed values. The user chooses one value."""

    name: str
    title: str
    values: tuple[str, ...]
    default: str


LABELS = [
    Labels("agent", "Agent", "epping_agent_interface_attached", "instance"),
    Labels("interface", "Interface", "epping_agent_interface_attached", "network_interface_name"),
    Labels("side", "Side", "epping_rtt_duration_seconds", "epping_rtt_side"),
    Labels("method", "Method", "epping_rtt_duration_seconds", "epping_rtt_method"),
]
TIMES = [
    Choice("window", "Now: the last", ("5m", "15m", "1h", "6h"), "15m"),
    Choice("baseline", "Before: earlier by", ("1h", "6h", "1d", "7d"), "1h"),
]
# The values of the variable $group: the labels of each kind of group.
GROUP, GROUP_TITLE, DEFAULT_GROUP = "group", "Group by", "network"
GROUPS = {
    "network": ("epping_network_name", "epping_subnet"),
    "AS": ("network_peer_as_number", "network_peer_as_organization_name"),
    "country": ("geo_country_iso_code",),
}
# The headers of the columns that come from labels.
COLUMNS = {
    "epping_network_name": "Network",
    "epping_subnet": "Subnet",
    "network_peer_as_number": "AS",
    "network_peer_as_organization_name": "Organisation",
    "geo_country_iso_code": "Country",
    "epping_rtt_side": "Side",
    "network_interface_name": "Interface",
    "instance": "Agent",
}


class Placed(NamedTuple):
    """A panel, and its position relative to the title of its row."""

    panel: Panel
    x: int
    y: int


def placed(panels: Sequence[Panel]) -> Iterator[Placed]:
    """Yields the panels of a row with their positions, from left to right and from top to bottom."""
    x = y = height = 0
    for panel in panels:
        if x + panel.width > WIDTH:
            x, y, height = 0, y + height, 0
        yield Placed(panel, x, y)
        x, height = x + panel.width, max(height, panel.height)
