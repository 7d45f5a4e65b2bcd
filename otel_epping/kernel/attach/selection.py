# SPDX-License-Identifier: Apache-2.0
"""Which interfaces are to be watched: by name, by pattern, or those with a default route.

eth0        that one
eth*        patterns of the shell: * ? [...]
/^veth/     regular expressions, found anywhere in the name
auto        those with a default route, IPv4 or IPv6 (default_routes.py)

Names and patterns select by the name of an interface and by each of its alternative names, as systemd.network(5) does.

Names with bytes that are not printable UTF-8 are escaped (text.py), in what selects them, too: `caf\\xe9`, `caf*`.
A pattern sees the bytes themselves: each counts as one character.
"""

import fnmatch
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.netlink.links import Link
from otel_epping.process.text import normalized, plain, printable

AUTO = "auto"
_HIGH_BYTES = re.compile(r"(?<!\\)(?:\\x[89a-fA-F][0-9a-fA-F])+")


def is_expression(text: str) -> bool:
    """Whether this is a regular expression."""
    return len(text) > 1 and text.startswith("/") and text.endswith("/")


def is_name(text: str) -> bool:
    """Whether this names one interface."""
    return text != AUTO and not is_expression(text) and not set(text) & set("*?[")


def escaped(text: str) -> str:
    r"""What selects interfaces, as a user typed it, in printable form. In a regular expression, \x41 stays."""
    return normalized(text) if is_name(text) else printable(text)


def _expression(text: str) -> str:
    """The regular expression for plain names: escapes of ASCII characters are Python's own."""
    return _HIGH_BYTES.sub(lambda match: plain(match[0]), text[1:-1])


def check(text: str) -> None:
    """Raises EppingError if this cannot select an interface."""
    if is_expression(text):
        try:
            re.compile(_expression(text))
        except re.error as error:
            raise EppingError(f"{text} is not a regular expression: {error}") from None


def matches(text: str, link: Link, default_routes: Set[int]) -> bool:
    """Whether this selects an interface."""
    if text == AUTO:
        return link.ifindex in default_routes
    if is_expression(text):
        expression = _expression(text)
        return any(re.search(expression, plain(name)) for name in link.names)
    return text in link.names or any(fnmatch.fnmatchcase(plain(name), plain(text)) for name in link.names)


@dataclass(frozen=True)
class Selection:
    """What to watch, by what it faces. A name goes before `auto`, that before a pattern; else a mirror port goes first,
    and the LAN before the WAN."""

    wan: Sequence[str] = ()
    lan: Sequence[str] = ()
    mirror: Sequence[str] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All that select, each once."""
        return tuple(dict.fromkeys((*self.wan, *self.lan, *self.mirror)))

    @property
    def names(self) -> tuple[str, ...]:
        """The interfaces that are named."""
        return tuple(filter(is_name, self.all))

    @property
    def by_route(self) -> bool:
        """Whether default routes matter."""
        return AUTO in self.all

    def role_of(self, link: Link, default_routes: Set[int]) -> Role | None:
        """What an interface faces; None if it is not to be watched."""
        ranked = enumerate(((Role.WAN, self.wan), (Role.LAN, self.lan), (Role.MIRROR, self.mirror)))
        found = [
            (is_name(text), text == AUTO, rank, role)
            for rank, (role, texts) in ranked
            for text in texts
            if matches(text, link, default_routes)
        ]
        return max(found, key=lambda each: each[:3])[3] if found else None
