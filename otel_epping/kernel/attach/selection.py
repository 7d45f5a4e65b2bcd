# SPDX-License-Identifier: Apache-2.0
"""Selects the interfaces to watch, by name, by pattern, or by default route. There are four kinds of selectors:

eth0        the interface with this name
eth*        a shell pattern with *, ? or [...]
/^veth/     a regular expression, which may match anywhere in the name
auto        the interfaces with an IPv4 or IPv6 default route (default_routes.py)

Names and patterns are compared with the name of an interface and with its alternative names, as in systemd.network(5).

In names, bytes that are not printable UTF-8 are escaped (process/escaping.py). In selectors, bytes that are not
printable UTF-8 are escaped in the same way, for example in `caf\\xe9`. Patterns are matched with the unescaped name, in
which each escaped byte is one character. So the pattern `caf?` also matches the name `caf\\xe9`.
"""

import fnmatch
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.netlink.links import Link
from otel_epping.process.escaping import normalized, plain, printable

AUTO = "auto"
_HIGH_BYTES = re.compile(r"(?<!\\)(?:\\x[89a-fA-F][0-9a-fA-F])+")


def is_expression(text: str) -> bool:
    """Returns true if a selector is a regular expression."""
    return len(text) > 1 and text.startswith("/") and text.endswith("/")


def is_name(text: str) -> bool:
    """Returns true if a selector is the name of one interface."""
    return text != AUTO and not is_expression(text) and not set(text) & set("*?[")


def escaped(text: str) -> str:
    r"""Returns the printable form of a selector that a user typed. In a regular expression, \x41 is not changed."""
    return normalized(text) if is_name(text) else printable(text)


def _expression(text: str) -> str:
    """Returns the regular expression that is matched with unescaped names.

    Only the escapes of bytes above 127 are replaced.
    """
    return _HIGH_BYTES.sub(lambda match: plain(match[0]), text[1:-1])


def check(text: str) -> None:
    """Raises EppingError if a selector is an invalid regular expression."""
    if is_expression(text):
        try:
            re.compile(_expression(text))
        except re.error as error:
            raise EppingError(f"{text} is not a valid regular expression: {error}") from None


def matches(text: str, link: Link, default_routes: Set[int]) -> bool:
    """Returns true if a selector selects an interface.

    `default_routes` has the indexes of the interfaces with a default route.
    """
    if text == AUTO:
        return link.ifindex in default_routes
    if is_expression(text):
        expression = _expression(text)
        return any(re.search(expression, plain(name)) for name in link.names)
    return text in link.names or any(fnmatch.fnmatchcase(plain(name), plain(text)) for name in link.names)


@dataclass(frozen=True)
class Selection:
    """The selectors of each role.

    If several selectors select an interface, a name takes precedence over `auto`, and `auto` takes precedence over a
    pattern. Among selectors of the same kind, mirror takes precedence over lan, and lan takes precedence over wan.
    """

    wan: Sequence[str] = ()
    lan: Sequence[str] = ()
    mirror: Sequence[str] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All selectors, without duplicates."""
        return tuple(dict.fromkeys((*self.wan, *self.lan, *self.mirror)))

    @property
    def names(self) -> tuple[str, ...]:
        """The selectors that are names."""
        return tuple(filter(is_name, self.all))

    @property
    def by_route(self) -> bool:
        """True if one of the selectors is `auto`, which selects the interfaces with a default route."""
        return AUTO in self.all

    def role_of(self, link: Link, default_routes: Set[int]) -> Role | None:
        """Returns the role of an interface, or None if no selector selects the interface."""
        ranked = enumerate(((Role.WAN, self.wan), (Role.LAN, self.lan), (Role.MIRROR, self.mirror)))
        found = [
            (is_name(text), text == AUTO, rank, role)
            for rank, (role, texts) in ranked
            for text in texts
            if matches(text, link, default_routes)
        ]
        return max(found, key=lambda each: each[:3])[3] if found else None
