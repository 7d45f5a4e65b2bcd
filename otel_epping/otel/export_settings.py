# SPDX-License-Identifier: Apache-2.0
"""The settings that decide what is exported."""

from dataclasses import dataclass, field

from otel_epping.errors import EppingError
from otel_epping.otel.metric_selection import MetricSelection, attributes_of
from otel_epping.otel.metric_table import NETWORK_KEYS
from otel_epping.otel.semconv import AS_NUMBER, AS_ORGANIZATION, COUNTRY, NETWORK_TAG, NETWORK_TYPE, SUBNET
from otel_epping.series import grouping
from otel_epping.series.grouping import Grouping
from otel_epping.series.limits import Limits


def network_keys(group_by: str) -> set[str]:
    """Returns the attributes that say what a series stands for, with this value of Grouping.group_by."""
    keys = {
        grouping.SUBNET: {*NETWORK_KEYS},
        grouping.NAME: {*NETWORK_KEYS} - {SUBNET, NETWORK_TYPE},
        grouping.ASN: {AS_NUMBER, AS_ORGANIZATION},
        grouping.COUNTRY: {COUNTRY},
    }
    return keys.get(group_by, {NETWORK_TAG})


def check_attributes(selection: MetricSelection, group_by: str) -> None:
    """Raises EppingError if an attribute is selected that no series has with this value of Grouping.group_by."""
    missing = {*NETWORK_KEYS} - network_keys(group_by)
    for group, names in selection.attributes.items():
        known = attributes_of(group)
        for name in names:
            if known[name] in missing:
                possible = [each for each, key in known.items() if key not in missing]
                raise EppingError(
                    f"the attribute {name} is selected for group {group}, but no series has it if series are grouped "
                    f"by {group_by}: choose among {', '.join(possible)}"
                )


@dataclass(frozen=True)
class ExportSettings:
    """The settings that decide what is exported. Raises EppingError for an attribute that no series would have.

    selection  the exported metrics and their attributes
    limits     limits on the exported series
    grouping   what a series stands for: a subnet, a named network or a group
    """

    selection: MetricSelection = field(default_factory=MetricSelection)
    limits: Limits = field(default_factory=Limits)
    grouping: Grouping = field(default_factory=Grouping)

    def __post_init__(self) -> None:
        check_attributes(self.selection, self.grouping.group_by)
