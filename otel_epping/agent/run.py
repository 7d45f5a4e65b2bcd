# SPDX-License-Identifier: Apache-2.0
"""The agent behind `otel-epping run`: watches interfaces and exports until it is told to stop."""

import logging
import select
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import wait
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from otel_epping.agent.health import Health, in_words
from otel_epping.agent.instance_id import Identity
from otel_epping.agent.systemd import Service
from otel_epping.agent.watchdog import Watchdog
from otel_epping.errors import EppingError
from otel_epping.kernel.attach.attachments import choose_hook
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.load import capabilities, requirements
from otel_epping.kernel.read.parallel import run_parallel
from otel_epping.otel.export_status import Delivery
from otel_epping.otel.variables import standard
from otel_epping.process import descriptors
from otel_epping.process.signals import Signals
from otel_epping.process.stop import STOP_S, Stop, end_at_once
from otel_epping.settings.model import BOUNDS, SELECTING, SETTINGS, Settings
from otel_epping.version import __version__

if TYPE_CHECKING:
    from otel_epping.otel.pipeline import Pipelines

_log = logging.getLogger("otel_epping")

_MIB = 2**20
# Least time between two looks at what changed: interfaces come and go by the hundred, and are dealt with together.
_PAUSE_S = 0.1
# Between two looks at interfaces when the first one failed, for the lack of descriptors for one.
_RETRY_S = 2.0
_TOLD = 20
# Detaching begins at the latest so long before the deadline, and a receiver is given up a little before it.
_DETACH_S = 3.0
_GRACE_S = 0.2
_NO_COPIES = (
    "the kernel program was loaded without a mirror port, so it takes a packet that a mirror port shows twice for a "
    "retransmission: restart the agent if that happens"
)
_STOPPED = "stopped before anything was watched"


def _tell_privileges(kept: Collection[str]) -> None:
    """Says what is left of them, which should be nothing."""
    if kept:
        _log.warning("%s", capabilities.describe(kept))
    elif holders := capabilities.threads_with_capabilities():
        _log.warning("threads that were not started by us keep their capabilities: %s", ", ".join(holders))


class _Reloading:
    """The settings that hold, and what SIGHUP makes of them."""

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[Settings], Settings],
        follower: InterfaceMonitor,
        collector: EppingCollector,
    ) -> None:
        self._settings, self._reread, self._follower, self._collector = settings, reread, follower, collector
        # Without bounds from the start, nothing is kept of what they go by.
        self._fixed = {setting.field for setting in SETTINGS if not setting.row.reload}
        self._fixed |= set() if settings.limits.any else BOUNDS

    def __call__(self) -> None:
        """Puts into force what can be without a restart. A file that is no good changes nothing."""
        try:
            read = self._reread(self._settings)
            if not read.selection.all:
                raise EppingError("no interface is left: name one as interface, lan or mirror")
        except EppingError as error:
            _log.error("settings are as they were: %s", error)
            return
        changed = [each for each in SETTINGS if getattr(read, each.field) != getattr(self._settings, each.field)]
        reloaded = [each for each in changed if each.field not in self._fixed]
        others = [each.key for each in changed if each.field in self._fixed]
        if others:
            _log.warning("changed, but needs a restart: %s", ", ".join(others), extra={"keys": others})
        keys = [each.key for each in reloaded]
        _log.info("settings read again, changed: %s", ", ".join(keys) or "nothing", extra={"keys": keys})
        values = {each.field: getattr(read, each.field) for each in reloaded}
        before, self._settings = self._settings, replace(self._settings, **values)
        logging.getLogger().setLevel(self._settings.log_level.upper())
        if self._settings.selection != before.selection:
            try:
                self._follower.select(self._settings.selection)
            except EppingError as error:
                _log.error("interfaces are followed as before: %s", error)
                self._settings = replace(self._settings, **{each: getattr(before, each) for each in SELECTING})
            if self._settings.kernel.copies and not self._collector.config.copies:
                _log.warning("%s", _NO_COPIES)
        self._collector.limit(self._settings.limits)


def _watch(
    stop: Stop,
    signals: Signals,
    follower: InterfaceMonitor,
    monitor: HookMonitor,
    reload: Callable[[], None],
    pulse: Watchdog,
) -> None:
    """Follows interfaces, looks after their hooks, and heeds SIGHUP, until we are to stop."""
    while not stop.is_set():
        # Made anew each time, for a selection may bring the follower another descriptor. select() cannot take
        # descriptors beyond 1023, and epoll needs one itself.
        waiting = select.poll()
        for source in (signals, follower):
            waiting.register(source, select.POLLIN)
        waits_s = [monitor.wait_s(), pulse.wait_s(), _RETRY_S if follower.is_outdated else None]
        wait_s = min(each for each in waits_s if each is not None)
        readable = [fd for fd, _ in waiting.poll(wait_s * 1000)]
        pulse.beat()
        if signals.take_hangup():
            reload()
        elif follower.fileno() in readable or follower.is_outdated:
            follower.follow()
            stop.wait(_PAUSE_S)
        if monitor.check():
            pulse.beat(at_once=True)


def _told(names: Sequence[str]) -> str:
    """Names in a line that stays one."""
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more if names else "no interface yet"


def _probes(health: Health, at: tuple[str, int] | None) -> AbstractContextManager[object]:
    """Listens for health probes at an address and port, if any; entered, answers them."""
    if not at:
        return nullcontext()
    from otel_epping.agent.probe_server import Probes  # with http.server, which an agent without probes can do without

    return Probes(*at, {"/livez": health.live, "/readyz": health.ready})


def _finish(stop: Stop, follower: InterfaceMonitor, pipelines: "Pipelines", delivery: Delivery) -> None:
    """Exports the last interval, and detaches. Both end with the stop's deadline, and the process with them.

    The kernel needs 10 ms and more to remove each TCX link, one after the other. So interfaces are detached after the
    export, or while it waits for a receiver: by then the counts have been read. Links that are left at the deadline are
    removed by the kernel as it ends the process.
    """
    undelivered = f"the last interval was not delivered: no answer within {STOP_S:g} s"
    stop.overdue = undelivered, 1
    with run_parallel(lambda: pipelines.shutdown(stop.left_s() - _GRACE_S)) as exporting:
        wait([exporting], stop.left_s() - _DETACH_S)
        if exporting.done() and exporting.result():
            stop.overdue = "", int(bool(delivery.failing))
        follower.close()
    if not exporting.result():
        end_at_once(undelivered, 1)


def run(settings: Settings, reread: Callable[[Settings], Settings]) -> bool:
    """Watches interfaces until SIGTERM or SIGINT; returns whether the last export arrived.

    With SIGHUP, `reread` gives the settings anew. Raises EppingError for whatever keeps it from beginning.
    """
    # First, because a wrong variable ends the start, and because the SDK reads some of them when it is imported.
    variables = standard.read()
    variables.apply()
    requirements.check_file_systems()
    requirements.check_open_files()
    requirements.check_threads()
    descriptors.raise_limit()
    stop, signals = Stop("stopped at once; the last interval may not have been delivered", STOP_S), Signals()
    delivery = Delivery()
    config, limits, service, health = settings.kernel, settings.limits, Service(), Health()
    hook = choose_hook(config.hook)

    def load() -> EppingCollector:
        collector = EppingCollector(config, limits)
        capabilities.drop()
        return collector

    with Identity(settings.selection.all) as identity, ExitStack() as answering:
        probes = _probes(health, settings.health_at)
        with run_parallel(load) as loading:
            # From here on the thread that loads is the only one with privileges, and with the program they are gone.
            # But for a clsact filter, which takes CAP_NET_ADMIN to be made, and to be taken off in the end.
            kept = capabilities.drop_capabilities({"CAP_NET_ADMIN"} if hook == "clsact" else ())
            answering.enter_context(probes)
            # The compiler works in a process of its own: time enough for Python to read the SDK and its exporters.
            from otel_epping.otel.pipeline import Pipelines, exporter_classes

            exporter_classes(variables.exporters)
        try:
            loaded = loading.result()
        except EppingError:
            if not stop.is_set():
                raise
            # Who stops us may well stop the loader, too: systemd signals all of a control group.
            _log.info(_STOPPED)
            return True
        with loaded as collector:
            if stop.is_set():
                _log.info(_STOPPED)
                return True
            _tell_privileges(kept)
            follower = InterfaceMonitor(collector.attachments, settings.selection, stop.is_set)
            interval_s = settings.interval_ns and settings.interval_ns / 1e9
            pipelines = Pipelines(collector, interval_s, delivery, identity.id, variables)
            follower.begin()
            monitor = HookMonitor(collector.attachments, collector.interface_packets)
            monitor.check()
            health.begin(
                collector.attachments,
                pipelines.exporters,
                pipelines.interval_s,
                lambda: delivery.failing,
                lambda: collector.directions.mirrors,
            )
            watched, kernel_bytes = collector.attachments.watched, sum(collector.kernel_bytes.values())
            _log.info(
                "watching %s: room for %d subnets, %.0f MiB of kernel memory",
                _told(watched),
                config.max_subnets,
                kernel_bytes / _MIB,
                extra={
                    "interfaces": list(watched),
                    "max_subnets": config.max_subnets,
                    "kernel_bytes": kernel_bytes,
                    "version": __version__,
                },
            )
            service.ready(in_words(health.ready()))
            reloading = _Reloading(settings, reread, follower, collector)

            def reload() -> None:
                with service.reloading("reading the settings again"):
                    reloading()

            _watch(stop, signals, follower, monitor, reload, Watchdog(service, health))
            _log.info("stopping: exporting the last interval")
            service.stopping("exporting the last interval")
            monitor.close()
            _finish(stop, follower, pipelines, delivery)
    return not delivery.failing
