# SPDX-License-Identifier: Apache-2.0
"""Reads the file of named networks, and compares the file with the settings."""

from collections.abc import Iterator
from functools import partial

from otel_epping.networks import files
from otel_epping.networks.databases import Databases
from otel_epping.networks.follower import FilesFollower
from otel_epping.networks.network import Networks
from otel_epping.series.grouping import ASN, COUNTRY, NAME, SUBNET
from otel_epping.settings.model import Settings
from otel_epping.settings.spec import ContradictionError
from otel_epping.settings.types import GroupBy

# Value of group_by -> the field of Place, and the values in words.
_PLACES = {ASN: ("as_number", "AS numbers"), COUNTRY: ("country", "countries")}


def read(settings: Settings, path: str) -> Networks:
    """Reads a file of named networks.

    Raises EppingError if the file is invalid. Raises ContradictionError if the networks do not have the tags that the
    settings name.
    """
    networks = files.read(path)
    has = f"the networks of {path} have " + (f"the tags {', '.join(networks.tags)}" if networks.tags else "no tags")
    if missing := [tag for tag in settings.network_tags if tag not in networks.tags]:
        raise ContradictionError(f"network_tags has the unknown tag {missing[0]}: {has}", ["network_tags"])
    if settings.group_by not in (*GroupBy.known, *networks.tags):
        raise ContradictionError(
            f"group_by is {settings.group_by}, which is not a tag: {has}; other groups are {', '.join(GroupBy.known)}",
            ["group_by"],
        )
    return networks


def open_files(settings: Settings) -> FilesFollower:
    """Reads the file of named networks and the databases that the settings name, if any.

    Raises EppingError if a file is invalid, and ContradictionError in the same cases as read() and
    check_databases().
    """
    opened = FilesFollower(settings.networks, partial(read, settings), settings.database)
    if opened.databases:
        check_databases(settings, opened.databases)
    return opened


def check_databases(settings: Settings, databases: Databases) -> None:
    """Raises ContradictionError if no database has the values by which series are grouped."""
    field, values = _PLACES.get(settings.group_by, ("", ""))
    if field and not databases.has(field):
        raise ContradictionError(
            f"group_by is {settings.group_by}, but {', '.join(settings.database)} has no {values}: set database to a "
            f"file with {values}, or group by {SUBNET}",
            ["group_by"],
        )


def warnings(settings: Settings, networks: Networks) -> Iterator[str]:
    """Yields a warning for each limit that is lower than the number of networks, and for attributes without names."""
    for group, attributes in (settings.attributes or {}).items():
        if "subnet" in attributes and "name" not in attributes:
            yield (
                f"the attributes of group {group} have subnet, but not name: all named networks are one series. Add "
                "name, and tag if you use network_tags"
            )
    total, limit = len(networks.networks), settings.max_series
    groups, what = total, "named networks"
    if settings.group_by not in (SUBNET, NAME):
        groups, what = _values(networks, settings.group_by), f"values of the tag {settings.group_by}"
    if 0 < limit < groups:
        yield (
            f"there are {groups:,} {what}, but max_series is {limit:,}: only the busiest get their own series. Set "
            f"max_series to at least {groups:,}, or group by a tag with fewer values"
        )
    if settings.max_subnets < total:
        yield (
            f"there are {total:,} named networks, but max_subnets is {settings.max_subnets:,}: if all of them have "
            f"traffic, some are counted on the overflow point. Set max_subnets to at least {total:,}"
        )


def _values(networks: Networks, tag: str) -> int:
    return len({value for network in networks.networks for name, value in network.tags if name == tag})
