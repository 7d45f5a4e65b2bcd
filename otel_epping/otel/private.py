# SPDX-License-Identifier: Apache-2.0
"""Private members of the SDK and its exporters that otel-epping uses."""

import inspect
from collections.abc import Callable
from typing import Any


class UnknownExporterError(Exception):
    """An official exporter isn't built as those we know."""


def expect(member: Callable[..., Any], *parameters: str) -> None:
    """Raises UnknownExporterError if these aren't the parameters of the exporter's member."""
    found = tuple(inspect.signature(member).parameters)
    if found != parameters:
        raise UnknownExporterError(f"{member.__qualname__}{found} should be {parameters}")
