# SPDX-License-Identifier: Apache-2.0
"""Checks that the settings about groups of addresses have the files that they need."""

from otel_epping.series.grouping import ASN, COUNTRY, SUBNET
from otel_epping.settings.spec import ContradictionError


def check(networks: str | None, network_tags: tuple[str, ...], database: tuple[str, ...], group_by: str) -> None:
    """Raises ContradictionError if network_tags or group_by need a file, and the setting of this file has no value."""
    if network_tags and not networks:
        raise ContradictionError(
            f"network_tags has the value {','.join(network_tags)}, but there are no named networks: set networks to a "
            "file with these tags, or remove network_tags",
            ["network_tags"],
        )
    if group_by in (ASN, COUNTRY) and not database:
        raise ContradictionError(
            f"group_by is {group_by}, but there is no database: set database to a file with this field, or group by "
            f"{SUBNET}",
            ["group_by"],
        )
    if group_by not in (SUBNET, ASN, COUNTRY) and not networks:
        raise ContradictionError(
            f"group_by is {group_by}, but there are no named networks: set networks to a file, or group by {SUBNET}, "
            f"{ASN} or {COUNTRY}",
            ["group_by"],
        )
