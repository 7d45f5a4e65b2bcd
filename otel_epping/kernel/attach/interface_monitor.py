# SPDX-License-Identifier: Apache-2.0
"""Follows the interfaces that a selection is of: attaches to what comes, and detaches from what goes.

The kernel's messages keep a table of the interfaces that there are. After each batch of them, what is watched is
compared with what is to be watched: so it doesn't matter which messages came in which order, or were missed.
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

# What keeps one interface too many out, and is no reason to do without all others.
_SHORTAGES = {*SHORTAGES, errno.ENOSPC}


class InterfaceMonitor:
    """Watches what is selected, from begin() to close(). Select on it, and follow() when it has something to read."""

    def __init__(
        self, attachments: Attachments, selection: Selection, is_stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._attachments = attachments
        self._selection = selection
        self._links: dict[int, Link] = {}
        self._watched: dict[int, tuple[Interface, Role]] = {}
        self._given_up: dict[int, Link] = {}  # said once, and tried again when it is another
        self._lacking: dict[int, Link] = {}  # of these, for a shortage: tried again when another interface is left
        self._shortage: EppingError | None = None  # the latest
        self._is_stopped = is_stopped
        self.is_outdated = False  # call follow() again, though there is nothing to read
        self._default_routes = DefaultRoutes()
        self._changes = links.LinkChanges(routes=selection.by_route)

    def begin(self) -> None:
        """Attaches to all there is. Raises EppingError if that cannot be.

        An interface for which there is no descriptor or no room is refused: logged, counted and left out, unless no
        other one is left.
        """
        self._look_anew()
        self._settle(strict=True)
        if self._shortage and not self._watched:
            raise self._shortage
        for text in self.unmatched():
            _log.warning("no interface matches %s yet: it is waited for", text)

    def close(self) -> None:
        """Detaches from all, and follows no more."""
        self._changes.close()
        self._attachments.detach_all()

    def fileno(self) -> int:
        """A descriptor that can be read when there is something to follow."""
        return self._changes.fileno()

    def unmatched(self) -> list[str]:
        """What selects no interface that there is."""
        existing, routes = self._links.values(), self._default_routes.interfaces
        return [text for text in self._selection.all if not any(matches(text, link, routes) for link in existing)]

    def select(self, selection: Selection) -> None:
        """Follows another selection from now on; what is in both is watched without a gap.

        Raises EppingError if that cannot be, and nothing is changed.
        """
        missing = [text for text in selection.names if not any(text in link.names for link in self._links.values())]
        try:
            changes = links.LinkChanges(routes=selection.by_route)
        except OSError as error:
            cure = SHORTAGES.get(error.errno or 0, "try again")
            raise EppingError(f"cannot follow other interfaces ({error.strerror}): {cure}") from error
        self._changes.close()
        self._changes, self._selection = changes, selection
        self.is_outdated = True
        self.follow()
        for text in missing:
            _log.warning("there is no interface %s: it is waited for", text)

    def follow(self) -> None:
        """Takes in what has changed. Sets `is_outdated` if that fails, as without a descriptor for a netlink socket."""
        try:
            self._follow()
        except OSError as error:
            if not self.is_outdated:
                cure = SHORTAGES.get(error.errno or 0, "it is tried again")
                _log.error("cannot look for changes of interfaces (%s): %s", error.strerror, cure)
            self.is_outdated = True

    def _follow(self) -> None:
        messages = list(self._changes.read())
        if self.is_outdated:
            messages.append(None)
        if None in messages:  # some were left out, and those that are there are older than what we see now
            self._look_anew()
            self._leave_cut()
            self.is_outdated = False
        else:
            self._take_in(filter(None, messages))
        self._settle(strict=False)

    def _take_in(self, messages: Iterable[tuple[int, bytes]]) -> None:
        routes_changed = False
        for kind, body in messages:
            routes_changed |= self._selection.by_route and self._default_routes.may_change(kind, body)
            if kind in (links.RTM_NEWLINK, links.RTM_DELLINK) and (link := links.parse_link(body)):
                self._links.pop(link.ifindex, None)
                if kind == links.RTM_NEWLINK:
                    self._links[link.ifindex] = link
                else:
                    # At once: before its index is another's, and the kernel has cut its links already.
                    self._leave(link.ifindex, "it is gone")
        if routes_changed:
            self._default_routes.look(self._links.values())

    def _look_anew(self) -> None:
        self._links = {link.ifindex: link for link in links.links()}
        if self._selection.by_route:
            self._default_routes.look(self._links.values())

    def _leave_cut(self) -> None:
        """Leaves what the kernel has cut: the interface is another one, though its index and name are the same."""
        state = self._attachments.state()
        for ifindex, (interface, _) in list(self._watched.items()):
            if not state[interface.name]:
                self._leave(ifindex, "it is gone")

    def _leave(self, ifindex: int, why: str) -> None:
        self._given_up.pop(ifindex, None)
        self._lacking.pop(ifindex, None)
        if ifindex in self._watched:
            name = self._watched.pop(ifindex)[0].name
            self._attachments.detach(name)
            for each in self._lacking:  # there may be room now
                self._given_up.pop(each, None)
            _log.info("detached from %s: %s", name, why, extra={"interface": name})

    def _wanted(self) -> dict[int, tuple[Link, Role]]:
        wanted = {}
        for ifindex, link in sorted(self._links.items()):
            role = self._selection.role_of(link, self._default_routes.interfaces)
            if role is not None:
                wanted[ifindex] = link, role
        return wanted

    def _settle(self, *, strict: bool) -> None:
        """Makes what is watched what is to be watched. All that is left is left before anything is attached: names
        may have been exchanged."""
        wanted = self._wanted()
        for ifindex, (interface, _) in list(self._watched.items()):
            if ifindex not in self._links:
                self._leave(ifindex, "it is gone")
            elif self._links[ifindex].name != interface.name:
                self._leave(ifindex, f"it is {self._links[ifindex].name} now")
            elif ifindex not in wanted:
                self._leave(ifindex, "it is not among those to watch any more")
        for ifindex, (link, role) in wanted.items():
            if self._is_stopped():
                return
            if self._given_up.get(ifindex) != link:
                self._watch(link, role, strict=strict)

    def _watch(self, link: Link, role: Role, *, strict: bool) -> None:
        """Attaches to an interface, or changes what is known of it."""
        try:
            interface = interface_of(link.name, link.ifindex, link.hardware)
        except EppingError as error:  # of a pattern it is no fault: it is left out
            if strict and set(link.names) & set(self._selection.names):
                raise
            return self._give_up(link, error)
        if self._watched.get(link.ifindex) == (interface, role):
            return
        try:
            identifier = self._attachments.add(interface, role)
        except EppingError as error:
            code = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            if code == errno.ENODEV:
                return  # it went away meanwhile, of which we'll hear
            lacks = code in _SHORTAGES
            if strict and not lacks:
                raise
            return self._give_up(link, error, lacks=lacks)
        self._lacking.pop(link.ifindex, None)
        if link.ifindex not in self._watched and not strict:
            _log.info("attached to %s", link.name, extra={"interface": link.name})
        if identifier == UNKNOWN_INTERFACE:
            _log.warning(
                "%s is counted without its name: %d others have counts; it gets its name when one that is gone has "
                "delivered them",
                link.name,
                INTERFACES,
            )
        self._watched[link.ifindex] = interface, role

    def _give_up(self, link: Link, error: EppingError, *, lacks: bool = False) -> None:
        self._given_up[link.ifindex] = link
        if lacks:
            self._shortage = error
            if self._lacking.get(link.ifindex) == link:
                return
            self._lacking[link.ifindex] = link
        self._attachments.counts["refused"] += 1
        _log.warning("not watched: %s", error, extra={"interface": link.name})


def present(texts: Sequence[str]) -> list[str]:
    """Names of the interfaces that are selected now, for who doesn't follow them: names stay, as they are.

    Raises EppingError if there is none.
    """
    existing, routes = list(links.links()), DefaultRoutes()
    if AUTO in texts:
        routes.look(existing)
    found: dict[str, None] = {}
    for text in texts:
        selected = [link.name for link in existing if matches(text, link, routes.interfaces)]
        found |= dict.fromkeys(selected or ([text] if is_name(text) else []))
    if not found:
        raise EppingError(f"no interface matches {', '.join(texts)}: see ip link")
    return list(found)
