# SPDX-License-Identifier: Apache-2.0
"""The table of all settings, and sets of settings that belong together."""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple, get_type_hints

from otel_epping.series.limits import Limits
from otel_epping.settings.model import Settings
from otel_epping.settings.spec import Spec
from otel_epping.settings.types import Names

PREFIX = "OTEL_EPPING_"
AGENT_SETTINGS = (
    "record",
    "health_port",
    "health_address",
    "log_format",
    "log_level",
)  # no effect on the exported data


class Definition(NamedTuple):
    """A setting: a field of Settings with its spec and its default, and the names that are derived from the field."""

    field: str
    spec: Spec
    default: Any

    @property
    def key(self) -> str:
        """The name of the setting in a settings file."""
        return self.field.removesuffix("_ns")

    @property
    def flag(self) -> str:
        """The name of the setting on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return PREFIX + self.key.upper()

    @property
    def multiple(self) -> bool:
        """True if the flag may be given several times, with one value each time."""
        return isinstance(self.default, tuple) and not isinstance(self.spec.type, Names)


def _definitions() -> Iterator[Definition]:
    hints = get_type_hints(Settings, include_extras=True)
    for field in dataclasses.fields(Settings):
        (spec,) = hints[field.name].__metadata__
        yield Definition(field.name, spec, field.default)


DEFINITIONS = tuple(_definitions())
METRIC_SETTINGS = {"metrics", "attributes"}
NETWORK_SETTINGS = {"networks", "network_tags", "database", "group_by"}
SERIES_SETTINGS = {field.name for field in dataclasses.fields(Limits)}
BY_KEY = {each.key: each for each in DEFINITIONS}
