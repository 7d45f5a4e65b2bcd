# SPDX-License-Identifier: Apache-2.0
"""Tests the lines of tables: labels, groups, and the attributes of data points."""

import pytest

from otel_epping.history.columns import ColumnKey
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line, split_attributes
from otel_epping.otel import metric_table

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

NETWORK = Line(
    name="miller",
    tags=(("plan", "x"), ("site", "a")),
    as_number=64500,
    as_organization="One",
    country="DE",
    interface="eth0",
    side="internal",
)
SUBNET = Line(subnet="192.0.2.0/24", network_type="ipv4", as_number=64501, interface="eth0", side="internal")


@pytest.mark.parametrize(
    ("line", "group_by", "label"),
    [
        (NETWORK, "subnet", "miller"),
        (NETWORK, "name", "miller"),
        (NETWORK, "asn", "AS64500 One"),
        (NETWORK, "country", "DE"),
        (NETWORK, "site", "a"),
        (NETWORK, "other", "unknown"),
        (SUBNET, "subnet", "192.0.2.0/24"),
        (SUBNET, "name", "unknown"),
        (SUBNET, "asn", "AS64501"),
        (SUBNET, "site", "unknown"),
        (Line(OVERFLOW), "asn", "all others"),
        (Line(UNANSWERED), "site", "never answered"),
    ],
)
def test_groups_and_their_labels(line: Line, group_by: str, label: str) -> None:
    grouped = line.grouped(group_by)
    assert grouped.label == label
    assert (grouped.interface, grouped.side) == (line.interface, line.side)
    assert grouped.grouped(group_by) == grouped


def test_attributes_are_split_into_a_line_and_a_column() -> None:
    attributes = {
        "epping.subnet": "192.0.2.0/24",
        "network.type": "ipv4",
        "network.peer.as.number": 64501,
        "network.interface.name": "eth0",
        "epping.rtt.side": "internal",
        "epping.traffic.direction": "from",
        "epping.traffic.class": "udp",
    }
    line, rest = split_attributes(attributes)
    assert line == SUBNET
    column = ColumnKey.of(metric_table.SUBNET_BYTES.name, rest)
    assert column == ColumnKey("epping.network.io", (("direction", "from"), ("traffic_class", "udp")))
    assert column.matches("epping.network.io", {"direction": "from"})
    assert not column.matches("epping.network.io", {"direction": "to"})
    assert not column.matches("epping.network.packet.count", {})


def test_attributes_of_named_networks_and_of_aggregates() -> None:
    tags = {"epping.network.tag.site": "a", "epping.network.tag.plan": "x", "epping.network.name": "miller"}
    line, rest = split_attributes(tags, "agent-1")
    assert (line, rest) == (Line(name="miller", tags=(("plan", "x"), ("site", "a")), agent="agent-1"), {})
    assert line.tag("site") == "a"
    assert line.tag("other") == ""
    assert split_attributes({"otel.metric.overflow": True}) == (Line(OVERFLOW), {})
    assert split_attributes({"epping.unanswered": True}) == (Line(UNANSWERED), {})
