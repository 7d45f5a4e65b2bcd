# SPDX-License-Identifier: Apache-2.0
"""Watches interfaces for `otel-epping top` and `otel-epping report`, and takes slices."""

import select
import time
from collections.abc import Callable
from contextlib import ExitStack, closing

from otel_epping.history.columns import Numbering
from otel_epping.history.slice import Slice
from otel_epping.history.sources.live import LiveSource
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.load import capabilities
from otel_epping.kernel.netlink import links
from otel_epping.networks.follower import FilesFollower
from otel_epping.process import descriptors
from otel_epping.series.grouping import Grouping
from otel_epping.settings.model import Settings

# Maximum time between two checks of the interfaces and the hooks, in seconds.
_STEP_S = 0.2


class WatchedInterfaces:
    """Watches the selected interfaces, and takes slices. A context manager: at the end, the program is detached.

    The constructor loads the program, drops the capabilities of the calling thread, and attaches the program. Threads
    that are started later have no capabilities either. The file of names and the databases are followed. `grouping`
    defines the lines. `numbering` is the numbering of the history to which the slices are added.

    Raises EppingError if the program cannot be loaded or attached.

    kept  the capabilities that were not dropped
    """

    def __init__(self, settings: Settings, files: FilesFollower, grouping: Grouping, numbering: Numbering) -> None:
        descriptors.raise_limit()
        with ExitStack() as stack:
            collector = stack.enter_context(EppingCollector(settings.kernel, settings.idle_timeout_ns, files.networks))
            # agent/run.py explains why CAP_NET_ADMIN is kept with clsact. otel-epping has only one thread here.
            is_clsact = collector.attachments.hook == "clsact"
            self.kept = capabilities.drop_capabilities({"CAP_NET_ADMIN"} if is_clsact else ())
            self._source = LiveSource(collector, numbering, grouping)
            self._interfaces = stack.enter_context(closing(InterfaceMonitor(collector.attachments, settings.selection)))
            self._hooks = stack.enter_context(closing(HookMonitor(collector.attachments, collector.interface_packets)))
            self._interfaces.begin()
            self._hooks.check()
            stack.enter_context(closing(files))
            files.start(collector.change_networks)
            self._collector, self._selection = collector, settings.selection
            self._before = self._kernel_counts()
            self._before_s = time.monotonic()
            self._stack = stack.pop_all()

    def __enter__(self) -> "WatchedInterfaces":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def name(self) -> str:
        """The names of the interfaces, or the selectors if no interface is watched."""
        return ", ".join(self._collector.attachments.watched or self._selection.all)

    @property
    def faults(self) -> tuple[str, ...]:
        """The current faults of the hooks and the interfaces, one sentence each."""
        missing = [f"no interface matches {text} now" for text in self._interfaces.unmatched()]
        down = [
            f"interface {link.name} is down: ip link set {link.name} up"
            for link in links.links()
            if link.name in self._collector.attachments.watched and not link.up
        ]
        return (*missing, *down, *self._collector.attachments.faults)

    def wait(self, until_s: float, is_stopped: Callable[[float], bool]) -> bool:
        """Supervises the interfaces and the hooks until the time `until_s` of the monotonic clock.

        Calls `is_stopped` with the time to wait, in seconds. Returns False when the result is true, and True at
        the time `until_s`.
        """
        while True:
            if not self._hooks.wait_s():
                self._collector.fold_newcomers()
                self._hooks.check()
            if self._interfaces.is_outdated or select.select([self._interfaces], [], [], 0)[0]:
                self._interfaces.follow()
            rest_s = until_s - time.monotonic()
            if rest_s <= 0:
                return True
            if is_stopped(min(_STEP_S, rest_s)):
                return False

    def take(self) -> Slice:
        """Returns the counts since the previous call. Raises OSError if a map cannot be read."""
        return self._source.take()

    @property
    def lines_in_use(self) -> Indexes:
        """The known lines that the next slice may contain."""
        return self._source.lines_in_use

    def renumber(self, to: Indexes, numbering: Numbering) -> None:
        """Continues with another numbering, as History.renumbered() does."""
        self._source.renumber(to, numbering)

    def other_traffic(self) -> list[tuple[str, float]]:
        """Returns (name, packets per second) of the other interfaces that had traffic since the last call."""
        before, before_s = self._before, self._before_s
        self._before, self._before_s = self._kernel_counts(), time.monotonic()
        seconds = max(self._before_s - before_s, 1e-3)
        watched = set(self._collector.attachments.watched)
        rates = [
            (name, (packets - before.get(name, packets)) / seconds)
            for name, packets in self._before.items()
            if name not in watched
        ]
        return sorted((each for each in rates if each[1] > 0), key=lambda each: -each[1])

    def _kernel_counts(self) -> dict[str, int]:
        """Returns the number of packets of each interface, as the kernel counts them."""
        names = {link.ifindex: link.name for link in links.links()}
        return {names[index]: sum(packets) for index, packets in links.packet_counts(names).items()}
