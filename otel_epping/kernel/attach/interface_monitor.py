# SPDX-License-Identifier: Apache-2.0
"""Attaches to selected interfaces when they appear, and detaches when they go away or are no longer selected.

The monitor has a table of all interfaces, and updates the table from the kernel's notifications. After each batch of
notifications, the monitor compares the watched interfaces with the interfaces that should be watched. So the order of
the notifications does not matter. If the kernel has dropped notifications, the monitor reads all interfaces again.
"""

import errno
import logging
from collections.abc import Callable, Iterable, Sequence

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.attachments import INTERFACES, UNKNOWN_INTERFACE, Attachments
from otel_epping.kernel.attach.default_routes import DefaultRoutes
from otel_epping.kernel.attach.interfaces import Interface, Role, interface_of
from otel_epping.kernel.attach.selection import AUTO, Selection, is_name, matches
from otel_epping.kernel.load.requirements import SHORTAGES
from otel_epping.kernel.netlink import links
from otel_epping.kernel.netlink.links import Link

_log = logging.getLogger(__name__)

# The error numbers of exhausted resources. If a resource is exhausted, the monitor refuses the interface, but continues
# to watch the other interfaces.
_SHORTAGES = {*SHORTAGES, errno.ENOSPC}


class InterfaceMonitor:
    """Watches the selected interfaces from begin() to close().

    The monitor can be passed to select.select(). Call follow() when the monitor is readable, and while `is_outdated` is
    true. Before each attachment, the monitor calls the function `is_stopped`. If the result is true, the monitor makes
    no more attachments. Raises OSError if no netlink socket can be opened.
    """

    def __init__(
        self, attachments: Attachments, selection: Selection, is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._attachments = attachments
        self._selection = selection
        self._links: dict[int, Link] = {}
        self._watched: dict[int, tuple[Interface, Role]] = {}
        # Interfaces that could not be watched. When such an interface changes, the monitor tries to attach to it again.
        self._refused: dict[int, Link] = {}
        # Interfaces that were refused because a resource was exhausted. When another interface is detached, the monitor
        # tries to attach to the refused interfaces again.
        self._short: dict[int, Link] = {}
        self._shortage: EppingError | None = None  # the latest error about an exhausted resource
        self._is_stopped = is_stopped
        self.is_outdated = False  # true if follow() failed and must be called again
        self._default_routes = DefaultRoutes()
        self._changes = links.LinkChanges(routes=selection.by_route)

    def begin(self) -> None:
        """Attaches to all selected interfaces that exist. Raises EppingError if an attachment fails.

        If a resource is exhausted, the monitor refuses the interface, and logs and counts the refusal. A refusal makes
        begin() raise EppingError only if no interface is watched.
        """
        self._refresh()
        self._apply(strict=True)
        if self._shortage and not self._watched:
            raise self._shortage
        for text in self.unmatched():
            _log.warning("no interface matches %s yet: the agent attaches when one appears", text)

    def close(self) -> None:
        """Detaches from all interfaces, and closes the socket."""
        self._changes.close()
        self._attachments.detach_all()

    def fileno(self) -> int:
        """Returns a descriptor that is readable when follow() should be called."""
        return self._changes.fileno()

    def unmatched(self) -> list[str]:
        """Returns the selectors that select no existing interface."""
        existing, routes = self._links.values(), self._default_routes.interfaces
        return [text for text in self._selection.all if not any(matches(text, link, routes) for link in existing)]

    def select(self, selection: Selection) -> None:
        """Changes the selection. An interface in the old and in the new selection is watched without interruption.

        If no netlink socket can be opened, raises EppingError and keeps the old selection.
        """
        missing = [text for text in selection.names if not any(text in link.names for link in self._links.values())]
        try:
            changes = links.LinkChanges(routes=selection.by_route)
        except OSError as error:
            cure = SHORTAGES.get(error.errno or 0, "try again")
            raise EppingError(f"cannot watch the new selection of interfaces ({error.strerror}): {cure}") from error
        self._changes.close()
        self._changes, self._selection = changes, selection
        self.is_outdated = True
        self.follow()
        for text in missing:
            _log.warning("there is no interface %s yet: the agent attaches when it appears", text)

    def follow(self) -> None:
        """Reads the notifications, attaches to all selected interfaces, and detaches from all other interfaces.

        Sets `is_outdated` if the notifications cannot be read, for example because the process has no free descriptor
        for a netlink socket.
        """
        try:
            self._follow()
        except OSError as error:
            if not self.is_outdated:
                cure = SHORTAGES.get(error.errno or 0, "the agent tries again")
                _log.error("cannot read changes of interfaces (%s): %s", error.strerror, cure)
            self.is_outdated = True

    def _follow(self) -> None:
        messages = list(self._changes.read())
        if self.is_outdated:
            messages.append(None)
        if None in messages:  # The kernel dropped messages. The remaining messages are outdated.
            self._refresh()
            self._detach_replaced()
            self.is_outdated = False
        else:
            self._update(filter(None, messages))
        self._apply(strict=False)

    def _update(self, messages: Iterable[tuple[int, bytes]]) -> None:
        """Updates the tables of interfaces and default routes from notifications."""
        routes_changed = False
        for kind, body in messages:
            routes_changed |= self._selection.by_route and self._default_routes.may_change(kind, body)
            if kind in (links.RTM_NEWLINK, links.RTM_DELLINK) and (link := links.parse_link(body)):
                self._links.pop(link.ifindex, None)
                if kind == links.RTM_NEWLINK:
                    self._links[link.ifindex] = link
                else:
                    # The monitor detaches at once, because a new interface may get the same index. The kernel has
                    # already detached the program.
                    self._detach(link.ifindex, "it is gone")
        if routes_changed:
            self._default_routes.refresh(self._links.values())

    def _refresh(self) -> None:
        """Reads all interfaces and default routes from the kernel."""
        self._links = {link.ifindex: link for link in links.links()}
        if self._selection.by_route:
            self._default_routes.refresh(self._links.values())

    def _detach_replaced(self) -> None:
        """Detaches from interfaces that were replaced by a new interface with the same index and name.

        The kernel has already detached the program from the old interface.
        """
        state = self._attachments.state()
        for ifindex, (interface, _) in list(self._watched.items()):
            if not state[interface.name]:
                self._detach(ifindex, "it is gone")

    def _detach(self, ifindex: int, why: str) -> None:
        """Detaches from an interface if it is watched, and logs the reason."""
        self._refused.pop(ifindex, None)
        self._short.pop(ifindex, None)
        if ifindex in self._watched:
            name = self._watched.pop(ifindex)[0].name
            self._attachments.detach(name)
            for each in self._short:  # a resource is free now
                self._refused.pop(each, None)
            _log.info("detached from %s: %s", name, why, extra={"interface": name})

    def _wanted(self) -> dict[int, tuple[Link, Role]]:
        """Returns the interfaces that the selection selects, and their roles, by index."""
        wanted = {}
        for ifindex, link in sorted(self._links.items()):
            role = self._selection.role_of(link, self._default_routes.interfaces)
            if role is not None:
                wanted[ifindex] = link, role
        return wanted

    def _apply(self, *, strict: bool) -> None:
        """Attaches to all selected interfaces, and detaches from all other interfaces.

        With `strict`, raises EppingError if an interface cannot be watched. All detachments come before all
        attachments, because two interfaces may have exchanged their names.
        """
        wanted = self._wanted()
        for ifindex, (interface, _) in list(self._watched.items()):
            if ifindex not in self._links:
                self._detach(ifindex, "it is gone")
            elif self._links[ifindex].name != interface.name:
                self._detach(ifindex, f"its name is now {self._links[ifindex].name}")
            elif ifindex not in wanted:
                self._detach(ifindex, "it is no longer selected")
        for ifindex, (link, role) in wanted.items():
            if self._is_stopped():
                return
            if self._refused.get(ifindex) != link:
                self._watch(link, role, strict=strict)

    def _watch(self, link: Link, role: Role, *, strict: bool) -> None:
        """Attaches to an interface, or updates its role."""
        try:
            interface = interface_of(link.name, link.ifindex, link.hardware)
        except EppingError as error:
            # The link type does not carry IP. The error is raised only if a selector is the name of the interface.
            if strict and set(link.names) & set(self._selection.names):
                raise
            return self._refuse(link, error)
        if self._watched.get(link.ifindex) == (interface, role):
            return
        try:
            identifier = self._attachments.attach_interface(interface, role)
        except EppingError as error:
            code = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            if code == errno.ENODEV:
                return  # the interface is gone, and a notification will follow
            is_shortage = code in _SHORTAGES
            if strict and not is_shortage:
                raise
            return self._refuse(link, error, is_shortage=is_shortage)
        self._short.pop(link.ifindex, None)
        if link.ifindex not in self._watched and not strict:
            _log.info("attached to %s", link.name, extra={"interface": link.name})
        if identifier == UNKNOWN_INTERFACE:
            _log.warning(
                "%s is counted without its name, because %d other interfaces have counts: the name is used after the "
                "counts of a removed interface are delivered",
                link.name,
                INTERFACES,
            )
        self._watched[link.ifindex] = interface, role

    def _refuse(self, link: Link, error: EppingError, *, is_shortage: bool = False) -> None:
        """Logs and counts an interface that cannot be watched."""
        self._refused[link.ifindex] = link
        if is_shortage:
            self._shortage = error
            if self._short.get(link.ifindex) == link:
                return
            self._short[link.ifindex] = link
        self._attachments.counts["refused"] += 1
        _log.warning("not watched: %s", error, extra={"interface": link.name})


def present(texts: Sequence[str]) -> list[str]:
    """Returns the names of the interfaces that the selectors select now, for commands that ignore later changes.

    If a selector is a name, the result contains the name even if no interface has this name. Raises EppingError if the
    result would be empty.
    """
    existing, routes = list(links.links()), DefaultRoutes()
    if AUTO in texts:
        routes.refresh(existing)
    found: dict[str, None] = {}
    for text in texts:
        selected = [link.name for link in existing if matches(text, link, routes.interfaces)]
        found |= dict.fromkeys(selected or ([text] if is_name(text) else []))
    if not found:
        raise EppingError(f"no interface matches {', '.join(texts)}: see ip link")
    return list(found)
