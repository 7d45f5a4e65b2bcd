# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping run`: the agent watches interfaces and exports their counts until SIGINT or SIGTERM."""

import logging
import select
from collections.abc import Callable, Collection
from concurrent.futures import wait
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from otel_epping.agent.health import Health, as_text, listed
from otel_epping.agent.instance_id import InstanceId
from otel_epping.agent.reload import Reloader
from otel_epping.agent.systemd import Notifier, Watchdog
from otel_epping.errors import EppingError
from otel_epping.kernel.attach.attachments import choose_hook
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.load import capabilities, requirements
from otel_epping.kernel.read.parallel import run_parallel
from otel_epping.networks.follower import FilesFollower
from otel_epping.networks.network import Networks
from otel_epping.otel.export_status import ExportStatus
from otel_epping.otel.variables import standard
from otel_epping.process import descriptors, heap
from otel_epping.process.signals import STOP_S, SignalPipe, Stop, exit_now
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from otel_epping.version import __version__

if TYPE_CHECKING:
    from otel_epping.agent.probe_server import ProbeServer
    from otel_epping.otel.otlp.failure import Failure
    from otel_epping.otel.pipeline import Pipelines

_log = logging.getLogger(__name__)

_MIB = 2**20
# Minimum time between two updates of the watched interfaces. If hundreds of interfaces change at once, one update
# handles many changes.
_PAUSE_S = 0.1
# Time between a failed update of the watched interfaces and the next attempt. An update fails, for example, if no file
# descriptor is free.
_RETRY_S = 2.0
_MAX_LISTED = 20
# When the agent stops, it exports the last interval. If the export is not finished _DETACH_S before the deadline of the
# stop, the agent starts to detach the program. If the export is not finished _ABANDON_S before the deadline, the agent
# abandons the export.
_DETACH_S = 3.0
_ABANDON_S = 0.2


class Agent:
    """One run of the agent. The main thread calls load(), serve() and stop() once each, in this order.

    Use the agent as a context manager. On exit, the agent frees its remaining resources. load(), serve() and stop()
    raise EppingError if they fail.
    """

    # Attributes that load() sets.
    _instance: InstanceId
    _files: FilesFollower
    _collector: EppingCollector
    # Attributes that serve() sets.
    _interfaces: InterfaceMonitor
    _hooks: HookMonitor
    _pipelines: "Pipelines"

    def __init__(self, settings: Settings, reread: Callable[[Settings], Settings]) -> None:
        """After SIGHUP, the agent calls `reread`, which reads the settings file again and returns the new settings."""
        self._settings, self._reread = settings, reread
        # `_variables` contains the standard OTEL_* variables. The SDK reads some of the variables when the SDK is
        # imported. So the variables are checked and set before the SDK is imported.
        self._variables = standard.read()
        self._variables.apply()
        requirements.check_file_systems()
        requirements.check_open_files()
        requirements.check_threads()
        descriptors.raise_limit()
        heap.use_one_arena()
        self._hook = choose_hook(settings.kernel.hook)
        self._stop = Stop("stopped at once; the last interval may not have been delivered", STOP_S)
        self._signals = SignalPipe()
        self._export_status, self._health, self._notifier = ExportStatus(), Health(), Notifier()
        self._resources = ExitStack()

    def __enter__(self) -> "Agent":
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def load(self) -> bool:
        """Loads the kernel program, and drops the capabilities. Returns False if a signal stopped the start.

        A new thread inherits the capabilities of the thread that starts it. So the order of the steps is important:

        1. Read the files that describe networks, in a thread that has dropped its capabilities. The agent also has no
           capabilities when it reads a file again. So a file that only root can read is an error at the start.
        2. Open the port for health probes, because a port below 1024 requires a capability.
        3. Start the loader thread, which loads the program and then drops the capabilities of the loader thread.
        4. Drop the capabilities of the main thread.
        5. Start all other threads, which are the threads of the probe server, of the libraries and of the exporters,
           and the thread that follows the files.
        """
        with run_parallel(self._read_files) as reading:
            self._files = self._resources.enter_context(closing(reading.result()))
        self._instance = self._resources.enter_context(InstanceId(self._settings.selection.all))
        probe_server = self._listen_for_probes()
        with run_parallel(self._load_program) as loading:
            kept = self._drop_capabilities()
            if probe_server:
                self._resources.enter_context(probe_server)
            # The SDK is imported while the program is loaded. The import does not delay the start, because most of the
            # loading time is spent in the compiler, which is a separate process.
            from otel_epping.otel.pipeline import exporter_classes

            exporter_classes(self._variables.exporters)
        try:
            self._collector = self._resources.enter_context(loading.result())
        except EppingError:
            # systemd sends a stop signal to all processes of a control group. So the signal that stops the agent may
            # also end the compiler. If loading fails while the agent is being stopped, the failure is not an error.
            if not self._stop.is_set():
                raise
        if self._stop.is_set():
            _log.info("stopped before an interface was watched")
            return False
        _warn_of_capabilities(kept)
        return True

    def serve(self) -> None:
        """Watches the interfaces and exports their counts until the first SIGINT or SIGTERM."""
        from otel_epping.otel.pipeline import Pipelines

        collector, selection = self._collector, self._settings.selection
        self._interfaces = InterfaceMonitor(collector.attachments, selection, self._stop.is_set)
        interval_s = self._settings.interval_ns and self._settings.interval_ns / 1e9
        self._pipelines = Pipelines(
            collector,
            interval_s,
            self._end_export,
            self._instance.value,
            self._variables,
            self._settings.export(self._files.databases),
        )
        self._interfaces.begin()
        self._hooks = HookMonitor(collector.attachments, collector.interface_packets)
        self._hooks.check()
        self._health.start(
            collector.attachments,
            self._pipelines.exporters,
            self._pipelines.interval_s,
            lambda: self._export_status.failing,
            lambda: collector.directions.mirrors,
        )
        self._log_start()
        self._notifier.ready(as_text(self._health.ready()))
        self._files.start(collector.change_networks)
        reloader = Reloader(
            self._settings, self._reread, self._interfaces, collector, self._pipelines.change_limits, self._files
        )
        watchdog = Watchdog(self._notifier, self._health)
        while not self._stop.is_set():
            readable = self._wait(watchdog.wait_s())
            watchdog.report()
            if self._signals.take_hangup():
                self._notifier.reloading()
                reloader.reload(lambda: self._notifier.ready(as_text(self._health.ready())))
            elif self._interfaces.fileno() in readable or self._interfaces.is_outdated:
                self._interfaces.follow()
                self._stop.wait(_PAUSE_S)
            if not self._hooks.wait_s():
                self._collector.fold_newcomers()
                if self._hooks.check():
                    watchdog.report(at_once=True)

    def stop(self) -> bool:
        """Exports the counts of the last interval, and detaches the program from the interfaces.

        Returns True if the last export of each exporter succeeded. The process ends at the deadline of `Stop`, even if
        stop() has not finished the export or detached the program.

        Detaching takes long if many interfaces are watched, because the kernel takes at least 10 ms to remove a TCX
        link, and removes the links one after the other. So the program is detached only after the last counts have been
        read. Detaching starts when the export is finished, or _DETACH_S before the deadline. If the process ends before
        all links are removed, the kernel removes the remaining links.
        """
        _log.info("stopping: exporting the last interval")
        self._notifier.stopping("exporting the last interval")
        self._hooks.close()
        undelivered = f"the last interval was not delivered: no answer within {STOP_S:g} s"
        self._stop.at_deadline = undelivered, 1
        with run_parallel(lambda: self._pipelines.shutdown(self._stop.remaining_s() - _ABANDON_S)) as exporting:
            wait([exporting], self._stop.remaining_s() - _DETACH_S)
            if exporting.done() and exporting.result():
                self._stop.at_deadline = "", int(bool(self._export_status.failing))
            self._interfaces.close()
        if not exporting.result():
            exit_now(undelivered, 1)
        return not self._export_status.failing

    def _listen_for_probes(self) -> "ProbeServer | None":
        """Opens the port for health probes, if a port is set.

        The server starts to answer when its context is entered.
        """
        if not self._settings.health_endpoint:
            return None
        from otel_epping.agent.probe_server import ProbeServer  # imports http.server only if probes are used

        probes = {"/livez": self._health.live, "/readyz": self._health.ready}
        return ProbeServer(*self._settings.health_endpoint, probes)

    def _read_files(self) -> FilesFollower:
        """Drops the capabilities of the calling thread, and reads the files that describe networks."""
        capabilities.drop()
        return names.open_files(self._settings)

    def _load_program(self) -> EppingCollector:
        collector = EppingCollector(self._settings.kernel, self._settings.idle_timeout_ns, self._files.networks)
        capabilities.drop()
        return collector

    def _drop_capabilities(self) -> Collection[str]:
        """Drops the capabilities of the calling thread, and returns the capabilities that the thread keeps.

        With the hook clsact, the thread keeps CAP_NET_ADMIN. The agent needs CAP_NET_ADMIN to create a clsact filter,
        and to remove the filter when the agent stops.
        """
        return capabilities.drop_capabilities({"CAP_NET_ADMIN"} if self._hook == "clsact" else ())

    def _end_export(self, exporter: str, failure: "Failure | None") -> None:
        """Records the result of an export. The memory of the export is free now, so it is returned to the kernel."""
        self._export_status(exporter, failure)
        heap.trim()

    def _wait(self, watchdog_s: float | None) -> list[int]:
        """Waits for a signal, a message about interfaces, or the next periodic task. Returns readable descriptors."""
        # A new poll object is created each time, because reload() may change the descriptor of the interface monitor.
        # poll() is used, because select() does not support descriptors above 1023, and epoll would need an additional
        # descriptor.
        waiting = select.poll()
        for source in (self._signals, self._interfaces):
            waiting.register(source, select.POLLIN)
        waits_s = [self._hooks.wait_s(), watchdog_s, _RETRY_S if self._interfaces.is_outdated else None]
        wait_s = min(each for each in waits_s if each is not None)
        return [fd for fd, _ in waiting.poll(wait_s * 1000)]

    def _log_start(self) -> None:
        watched, config = self._collector.attachments.watched, self._settings.kernel
        kernel_bytes = sum(self._collector.kernel_bytes.values())
        _log.info(
            "watching %s: room for %d subnets on two interfaces, %.0f MiB of kernel memory",
            listed(watched, _MAX_LISTED) or "no interface yet",
            config.max_subnets,
            kernel_bytes / _MIB,
            extra={
                "interfaces": list(watched),
                "max_subnets": config.max_subnets,
                "kernel_bytes": kernel_bytes,
                "version": __version__,
            },
        )
        if self._files.networks:
            _log_networks(self._settings, self._files.networks)


def _log_networks(settings: Settings, networks: Networks) -> None:
    """Logs the number of named networks, and warns if a limit is lower than this number."""
    _log.info(
        "%d named networks with %d prefixes in %s",
        len(networks.networks),
        len(networks.prefixes),
        settings.networks,
        extra={"networks": len(networks.networks), "prefixes": len(networks.prefixes)},
    )
    for warning in names.warnings(settings, networks):
        _log.warning("%s", warning)


def _warn_of_capabilities(kept: Collection[str]) -> None:
    """Logs a warning if a thread of this process still has capabilities. Usually no thread has capabilities."""
    if kept:
        _log.warning("%s", capabilities.describe(kept))
    elif holders := capabilities.threads_with_capabilities():
        _log.warning("threads that otel-epping did not start keep their capabilities: %s", ", ".join(holders))


def run(settings: Settings, reread: Callable[[Settings], Settings]) -> bool:
    """Runs the agent. Returns True if the last export of each exporter succeeded.

    Also returns True if a signal stopped the agent before the agent watched an interface. After SIGHUP, the agent calls
    `reread`, which reads the settings file again and returns the new settings. Raises EppingError if the agent cannot
    start.
    """
    with Agent(settings, reread) as agent:
        if not agent.load():
            return True
        agent.serve()
        return agent.stop()
