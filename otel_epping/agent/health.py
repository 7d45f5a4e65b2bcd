# SPDX-License-Identifier: Apache-2.0
"""Health checks of the agent, for the HTTP probes and for systemd's watchdog.

The words "ready" and "alive" have the same meaning as the readiness and liveness probes of Kubernetes:

ready  The program is attached to each watched interface, and sees the packets on these interfaces. The counts are read
       in time. Exports succeed.
alive  The counts are read in time. If the counts are not read, a restart of the agent may help. An agent whose exports
       fail is still alive, because a restart of the agent does not repair a receiver.
"""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from otel_epping.kernel.attach.attachments import Attachments

if TYPE_CHECKING:  # at run time, the agent imports the SDK later, while the program is compiled
    from otel_epping.otel.exporter import ProducerExporter

_MAX_LISTED = 8
_LOADING = "the kernel program is being loaded"


class Check(NamedTuple):
    """The result of one check: the name of the check, True if the check passed, and a readable explanation."""

    name: str
    ok: bool
    text: str


class Health:
    """Runs the checks. A check only reads values that other code has already written, so a check never waits.

    While the kernel program is being loaded, before start() is called, the agent is alive but not ready.
    """

    def __init__(self) -> None:
        self._attachments: Attachments | None = None
        self._mirror_ports: Callable[[], Collection[str]] = tuple
        self._exporters: Sequence[ProducerExporter] = ()
        self._interval_s = 0.0
        self._failing: Callable[[], Sequence[str]] = tuple

    def start(
        self,
        attachments: Attachments,
        exporters: "Sequence[ProducerExporter]",
        interval_s: float,
        failing: Callable[[], Sequence[str]],
        mirror_ports: Callable[[], Collection[str]] = tuple,
    ) -> None:
        """Sets the objects that the checks read. Call this method after the program is loaded.

        `failing` returns the names of the exporters whose last export failed. `mirror_ports` returns the names of the
        interfaces that were detected as mirror ports but are not watched with --mirror.
        """
        self._exporters, self._interval_s, self._failing = exporters, interval_s, failing
        self._mirror_ports = mirror_ports
        self._attachments = attachments

    def ready(self) -> list[Check]:
        """Runs the readiness checks. The agent is ready if it counts packets and exports the counts."""
        if self._attachments is None:
            return [Check("attached", False, _LOADING)]
        attachments = self._attachments
        return [
            self._check_attached(attachments),
            self._check_seen(attachments),
            *self._check_measured(),
            self._check_read(0.0),
            self._check_exported(),
        ]

    def live(self) -> list[Check]:
        """Runs the liveness check. The agent is alive if the reader of each exporter still reads the counts."""
        if self._attachments is None:
            return [Check("read", True, _LOADING)]
        # If the receiver of an export is slow, the next reading is delayed, but at most by `max_export_s`.
        return [self._check_read(max((exporter.max_export_s for exporter in self._exporters), default=0.0))]

    def _check_attached(self, attachments: Attachments) -> Check:
        """Checks that the program is attached to both hooks of each watched interface.

        The check fails if no interface is watched.
        """
        state, watched = attachments.state(), attachments.watched
        lost = [name for name in watched if not state.get(name)]
        attached = [name for name in watched if name not in lost]
        if not attached:
            return Check("attached", False, "no interface is watched")
        if lost:
            return Check("attached", False, f"the program is not attached to {listed(lost)}")
        return Check("attached", True, f"watching {listed(attached)}")

    def _check_seen(self, attachments: Attachments) -> Check:
        """Checks that the program receives the packets that the kernel counts (kernel/attach/hook_monitor.py)."""
        faults = attachments.faults
        return Check("seen", not faults, listed(faults, separator="; ") if faults else "packets are seen")

    def _check_measured(self) -> Iterator[Check]:
        """Yields a failed check if an interface was detected as a mirror port but is not watched with --mirror.

        If a mirror port is not watched with --mirror, packets are counted, but no RTT is measured.
        """
        if names := sorted(self._mirror_ports()):
            text = f"both directions of TCP flows are incoming on {listed(names)}: use --mirror for mirror ports"
            yield Check("measured", False, text)

    def _check_read(self, extra_s: float) -> Check:
        """Checks that the last reading of each reader is at most (2 * interval + 1 s + `extra_s`) old.

        Until the first reading of a reader, the check uses the time since the reader was created.
        """
        if not self._exporters:
            return Check("read", True, "counts are read at each scrape")
        age_s = time.monotonic() - min(exporter.producer.read_at_s for exporter in self._exporters)
        # The limit includes one extra second, because a reading can take one second on a busy machine.
        ok = age_s <= 2 * self._interval_s + 1 + extra_s
        return Check("read", ok, f"counts were read {age_s:.0f} s ago; the interval is {self._interval_s:g} s")

    def _check_exported(self) -> Check:
        """Checks that the last export of each exporter succeeded."""
        failing = self._failing()
        return Check("exported", not failing, f"exports fail: {', '.join(failing)}" if failing else "exports arrive")


def listed(texts: Sequence[str], limit: int = _MAX_LISTED, separator: str = ", ") -> str:
    """Joins the first `limit` texts to one line.

    The line ends with the number of the remaining texts, if there are any.
    """
    more = f" and {len(texts) - limit} more" if len(texts) > limit else ""
    return separator.join(texts[:limit]) + more


def as_text(checks: Sequence[Check]) -> str:
    """Returns the texts of the checks in one line."""
    return "; ".join(check.text for check in checks)
