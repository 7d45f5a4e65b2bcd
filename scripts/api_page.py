# SPDX-License-Identifier: Apache-2.0
"""Prints docs/api.md from the docstrings of the public API: `python -m scripts.api_page`."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import otel_epping

_HEAD = """# Library API

`make docs` generates this page from docstrings. To change the page, edit the docstrings.

Import the names on this page from `otel_epping`. Other modules of the package are not public and may change without
notice. A name is imported when it is first used, so `import otel_epping` alone loads neither numpy nor the
OpenTelemetry SDK. [examples/library.py](../examples/library.py) is a complete program. Applications that are
instrumented with OpenTelemetry do not need this API. Such applications use
`otel_epping.instrumentor.EppingInstrumentor` (see the [README](../README.md)).

If a name ends in `_ns`, the value is an integer number of nanoseconds. If a name ends in `_s`, the value is a number of
seconds.
"""

# The public members of each class. All other members of the class are for use inside the package only.
_MEMBERS: dict[str, tuple[str, ...]] = {
    "EppingCollector": ("attach", "detach", "change_networks", "close"),
    "EppingConfig": (),
    "ExportSettings": (),
    "Limits": (),
    "read_networks": (),
    "Networks": (),
    "Grouping": (),
    "Databases": ("reopen",),
    "MetricSelection": (),
    "EppingMetricProducer": ("produce",),
    "install": (),
    "attach": (),
    "EppingError": (),
}


def _signature(name: str, value: Callable[..., Any]) -> str:
    """Returns the signature without module paths."""
    text = str(inspect.signature(value)).replace("self, ", "").replace("(self)", "()")
    return name + re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text).replace("'", '"')


def _section(level: int, name: str, value: Any) -> str:
    # A table row in a docstring begins with a name and two spaces. This code indents the table rows, so that Markdown
    # shows the table as a code block.
    body = re.sub(r"^(\w+ {2,}\S.*)$", r"    \1", inspect.getdoc(value) or "", flags=re.M)
    return f"\n{'#' * level} {name}\n\n```python\n{_signature(name, value)}\n```\n\n{body}\n"


def markdown() -> str:
    """Returns the text of docs/api.md."""
    sections = [_HEAD]
    for name, members in _MEMBERS.items():
        value = getattr(otel_epping, name)
        sections.append(_section(2, name, value))
        sections += [_section(3, f"{name}.{member}", getattr(value, member)) for member in members]
    sections.append("\n## \\_\\_version\\_\\_\n\nThe version of otel-epping, as a string.\n")
    return "".join(sections)


if __name__ == "__main__":
    print(markdown(), end="")
