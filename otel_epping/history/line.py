# SPDX-License-Identifier: Apache-2.0
"""A line: the network or the group for which a row of a table stands."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from otel_epping.otel import semconv
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET

# The kinds of lines.
NETWORK, OVERFLOW, UNANSWERED = "network", "overflow", "unanswered"
_LABELS = {OVERFLOW: "all others", UNANSWERED: "never answered"}
# The attribute of each field.
_FIELDS = {
    semconv.SUBNET: "subnet",
    semconv.NETWORK_TYPE: "network_type",
    semconv.NETWORK_NAME: "name",
    semconv.AS_NUMBER: "as_number",
    semconv.AS_ORGANIZATION: "as_organization",
    semconv.COUNTRY: "country",
    semconv.INTERFACE: "interface",
    semconv.SIDE: "side",
}
_TAG = f"{semconv.NETWORK_TAG}."


class Line(NamedTuple):
    """A network or a group of networks, at one interface and on one side.

    Lines of different agents, interfaces or sides are never merged, because such lines are different measurements, and
    because a forwarded packet is counted at each interface.

    kind             NETWORK; OVERFLOW: the overflow point; UNANSWERED: all subnets that never answered
    subnet           the subnet in CIDR notation, or ""
    network_type     `ipv4`, `ipv6` or ""
    name             the name of a named network, or ""
    tags             (tag, value) for each known tag
    as_number        AS number, or None
    as_organization  the organisation that holds the AS, or ""
    country          ISO 3166-1 alpha-2 code, or ""
    interface        the interface, or ""
    side             `external`, `internal`, `unknown`, or "" if the source has no sides
    agent            the agent that measured, if a source has measurements of several agents, or ""
    """

    kind: str = NETWORK
    subnet: str = ""
    network_type: str = ""
    name: str = ""
    tags: tuple[tuple[str, str], ...] = ()
    as_number: int | None = None
    as_organization: str = ""
    country: str = ""
    interface: str = ""
    side: str = ""
    agent: str = ""

    @property
    def label(self) -> str:
        """The text that names the network or the group."""
        if self.kind != NETWORK:
            return _LABELS[self.kind]
        if self.name or self.subnet:
            return self.name or self.subnet
        if self.as_number is not None:
            return f"AS{self.as_number} {self.as_organization}".rstrip()
        return ", ".join(value for _, value in self.tags) or self.country or self.network_type or "unknown"

    @property
    def is_network(self) -> bool:
        """False for lines that sum the counts of many networks: OVERFLOW and UNANSWERED."""
        return self.kind == NETWORK

    @property
    def has_group(self) -> bool:
        """False for a group of all networks without the attribute by which networks are grouped (grouped())."""
        return self != Line(interface=self.interface, side=self.side, agent=self.agent)

    def tag(self, name: str) -> str:
        """Returns the value of a tag, or "" if the line does not have the tag."""
        return dict(self.tags).get(name, "")

    def grouped(self, group_by: str) -> "Line":
        """Returns the line of the group to which this line belongs.

        `group_by` is `subnet` (no change), `name`, `asn`, `country` or a tag, as in series/grouping.py. The interface,
        the side and the agent of a line stay. OVERFLOW and UNANSWERED are not grouped.
        """
        if group_by == SUBNET or not self.is_network:
            return self
        place = Line(interface=self.interface, side=self.side, agent=self.agent)
        if group_by == NAME:
            return self._replace(subnet="", network_type="") if self.name else place
        if group_by == ASN:
            return place._replace(as_number=self.as_number, as_organization=self.as_organization)
        if group_by == COUNTRY:
            return place._replace(country=self.country)
        return place._replace(tags=tuple(tag for tag in self.tags if tag[0] == group_by))


def split_attributes(attributes: Mapping[str, Any], agent: str = "") -> tuple[Line, dict[str, Any]]:
    """Splits the attributes of a data point. Returns the line, and the attributes that do not belong to the line."""
    rest = dict(attributes)
    if rest.pop(semconv.OVERFLOW, False):
        return Line(OVERFLOW, agent=agent), rest
    if rest.pop(semconv.UNANSWERED, False):
        return Line(UNANSWERED, agent=agent), rest
    fields = {field: rest.pop(name) for name, field in _FIELDS.items() if name in rest}
    tags = tuple((name.removeprefix(_TAG), str(rest.pop(name))) for name in list(rest) if name.startswith(_TAG))
    return Line(tags=tuple(sorted(tags)), agent=agent, **fields), rest
