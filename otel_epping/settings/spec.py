# SPDX-License-Identifier: Apache-2.0
"""The properties of a setting, and the error for settings that contradict each other."""

from collections.abc import Collection
from typing import Any, NamedTuple

import click

from otel_epping.errors import EppingError


class ContradictionError(EppingError):
    """The values of several settings contradict each other. `fields` are the names of these settings in Settings."""

    def __init__(self, message: str, fields: Collection[str]) -> None:
        super().__init__(message)
        self.fields = fields


class Spec(NamedTuple):
    """The properties of a setting, except its names and its default.

    short       the short flag, or ""
    kernel      True if the setting is a field of EppingConfig. The commands run, check, watch and replay have the
                setting as an option, but see `live_only`.
    live_only   True if the setting is about interfaces. Then the command replay does not have the setting as an option.
    reloadable  True if a new value in the file takes effect after SIGHUP. Otherwise a new value takes effect after a
                restart.
    unset       the text that is shown as the default if the default is None
    """

    type: click.ParamType[Any]
    help: str
    short: str = ""
    kernel: bool = False
    live_only: bool = False
    reloadable: bool = False
    unset: str = ""
