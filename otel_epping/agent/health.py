# SPDX-License-Identifier: Apache-2.0
"""How the agent is: what its probes answer, and what systemd's watchdog goes by.

Two questions, as Kubernetes asks them. Is it ready: does it watch an interface and see the interface's packets, read
the kernel's counts in time, and get them through? And is it alive: would it be better for being started again? No
receiver comes back by that.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from otel_epping.kernel.attach.attachments import Attachments

if TYPE_CHECKING:  # brings the SDK, for which the agent has time later, while the program is compiled
    from otel_epping.otel.exporter import ProducerExporter

_NAMED = 8
_LOADING = "the kernel program is being loaded"


class Check(NamedTuple):
    """A named answer: whether it is well, and what is so, in words."""

    name: str
    ok: bool
    text: str


class Health:
    """The checks. They look at numbers that others have written and wait for nothing, so that they can't be in the way.

    Until begin() the program is being loaded: alive, and not ready.
    """

    def __init__(self) -> None:
        self._attachments: Attachments | None = None
        self._mirrors: Callable[[], Collection[str]] = tuple
        self._exporters: Sequence[ProducerExporter] = ()
        self._interval_s = 0.0
        self._failing: Callable[[], Sequence[str]] = tuple

    def begin(
        self,
        attachments: Attachments,
        exporters: "Sequence[ProducerExporter]",
        interval_s: float,
        failing: Callable[[], Sequence[str]],
        mirrors: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """From now on there is something to look at; `failing` names the exporters whose last export failed, `mirrors`
        the interfaces that are mirror ports and not watched as such.
        """
        self._exporters, self._interval_s, self._failing = exporters, interval_s, failing
        self._mirrors = mirrors
        self._attachments = attachments

    def ready(self) -> list[Check]:
        """Whether counts come in and get out."""
        if self._attachments is None:
            return [Check("attached", False, _LOADING)]
        attachments = self._attachments
        checks = [self._attached(attachments), self._seen(attachments), *self._measured()]
        return [*checks, self._read(0.0), self._exported()]

    def live(self) -> list[Check]:
        """Whether there is no reason to start it again. The reader of an exporter may have died, or hang."""
        if self._attachments is None:
            return [Check("read", True, _LOADING)]
        # An export that waits for a receiver keeps the next reading waiting, but no longer than its deadline.
        return [self._read(max((exporter.max_export_s for exporter in self._exporters), default=0.0))]

    def _attached(self, attachments: Attachments) -> Check:
        """Whether the program is on both hooks of each interface that is watched."""
        state, watched = attachments.state(), attachments.watched
        lost = [name for name in watched if not state.get(name)]
        attached = [name for name in watched if name not in lost]
        if not attached:
            return Check("attached", False, "no interface is watched")
        if lost:
            return Check("attached", False, f"our program was taken off {_listed(lost)}")
        return Check("attached", True, f"watching {_listed(attached)}")

    def _seen(self, attachments: Attachments) -> Check:
        """Whether we see the packets that the kernel counts (kernel/attach/hook_monitor.py)."""
        faults = attachments.faults
        return Check("seen", not faults, _listed(faults, "; ") if faults else "packets are seen")

    def _measured(self) -> Iterator[Check]:
        """Only where nothing is measured, although packets are counted."""
        if mirrors := sorted(self._mirrors()):
            text = f"both directions arrive the same way on {_listed(mirrors)}: name mirror ports as --mirror"
            yield Check("measured", False, text)

    def _read(self, patience_s: float) -> Check:
        """Whether the kernel's counts were read within two intervals; before the first reading, since we began."""
        if not self._exporters:
            return Check("read", True, "counts are read when somebody comes for them")
        age_s = time.monotonic() - min(exporter.producer.read_at_s for exporter in self._exporters)
        # A second for the reading itself, on a machine with a lot to do.
        ok = age_s <= 2 * self._interval_s + 1 + patience_s
        return Check("read", ok, f"counts were read {age_s:.0f} s ago; they are to be, every {self._interval_s:g} s")

    def _exported(self) -> Check:
        failing = self._failing()
        return Check("exported", not failing, f"exports fail: {', '.join(failing)}" if failing else "exports arrive")


def _listed(names: Sequence[str], separator: str = ", ") -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return separator.join(names[:_NAMED]) + more


def in_words(checks: Sequence[Check]) -> str:
    """Checks as one line."""
    return "; ".join(check.text for check in checks)
