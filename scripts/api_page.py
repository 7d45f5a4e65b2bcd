# SPDX-License-Identifier: Apache-2.0
"""Prints docs/api.md from the docstrings of the public API: `python -m scripts.api_page`."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import otel_epping

_HEAD = """# Library API

Made from docstrings by `make docs`; edit there.

`from otel_epping import ...` offers the names on this page. Other modules of the package are not public and change
without notice. A name is imported when it is first used: `import otel_epping` alone loads neither numpy nor the
OpenTelemetry SDK. [examples/library.py](../examples/library.py) is a complete program. Applications that OpenTelemetry
instruments need none of this: they use `otel_epping.instrumentor.EppingInstrumentor` (see the [README](../README.md)).

Times are integers in nanoseconds where a name ends in `_ns`, and seconds where a name ends in `_s`.
"""

# The public members of each class. All others serve the package itself.
_MEMBERS: dict[str, tuple[str, ...]] = {
    "EppingCollector": ("attach", "detach", "close"),
    "EppingConfig": (),
    "Limits": (),
    "EppingMetricProducer": ("produce",),
    "install": (),
    "attach": (),
    "EppingError": (),
}


def _signature(name: str, value: Callable[..., Any]) -> str:
    """The signature without the package's module paths."""
    text = str(inspect.signature(value)).replace("self, ", "").replace("(self)", "()")
    return name + re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Z])", "", text).replace("'", '"')


def _section(level: int, name: str, value: Any) -> str:
    # Rows of tables in docstrings become a code block: they begin with a name and two spaces.
    body = re.sub(r"^(\w+ {2,}\S.*)$", r"    \1", inspect.getdoc(value) or "", flags=re.M)
    return f"\n{'#' * level} {name}\n\n```python\n{_signature(name, value)}\n```\n\n{body}\n"


def markdown() -> str:
    """The text of docs/api.md."""
    sections = [_HEAD]
    for name, members in _MEMBERS.items():
        value = getattr(otel_epping, name)
        sections.append(_section(2, name, value))
        sections += [_section(3, f"{name}.{member}", getattr(value, member)) for member in members]
    sections.append("\n## \\_\\_version\\_\\_\n\nThe version of otel-epping, a string.\n")
    return "".join(sections)


if __name__ == "__main__":
    print(markdown(), end="")
