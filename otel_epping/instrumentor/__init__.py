# SPDX-License-Identifier: Apache-2.0
"""EppingInstrumentor: measures network latency, and exports the metrics through the application's MeterProvider.

    OTEL_EPPING_INTERFACE=eth0 opentelemetry-instrument python app.py

or, from code:

    from otel_epping.instrumentor import EppingInstrumentor

    EppingInstrumentor().instrument(interface="eth0")

Settings come from arguments of instrument(), from OTEL_EPPING_* variables (environment_variables.py), from the file
that OTEL_EPPING_CONFIG names, or from `instrumentation/development: python: otel_epping:` in the file that
OTEL_CONFIG_FILE names. If the settings name no interface, the interfaces with a default route are watched.

In each network namespace, only the first instrumented process measures the network. Other instrumented processes in the
same network namespace do not export the metrics of otel-epping. If a server forks workers from the measuring process,
the workers do not export the metrics of otel-epping either.

If the measurement cannot start (no privileges, no BCC, a wrong setting), the cause is logged as one warning, and the
application continues.

Metrics (docs/metrics.md has units, descriptions, attributes and groups; the setting `metrics` selects groups):

    epping.rtt.duration                  exponential histogram
    epping.network.packet.count          counter
    epping.network.io                    counter
    epping.network.ecn.packet.count      counter
    epping.tcp.retransmission.count      counter
    epping.tcp.out_of_order.count        counter
    epping.tcp.zero_window.count         counter
    epping.flow.opened.count             counter
    epping.flow.closed.count             counter
    epping.flow.active                   updowncounter
    epping.interface.packet.count        counter
    epping.interface.io                  counter
    epping.ecn.packet.count              counter
    epping.flow.count                    counter
    epping.flow.unidirectional           updowncounter
    epping.agent.measurement.count       counter
    epping.agent.timestamp.fault.count   counter
    epping.interface.duplicate.count     counter
    epping.agent.rtt.clamped             counter
    epping.agent.insert.failed           counter
    epping.agent.interface.attached      updowncounter
    epping.agent.interface.packet.count  updowncounter
    epping.agent.subnet.usage            updowncounter
    epping.agent.flow.usage              updowncounter
    epping.agent.flow.limit              updowncounter
    epping.agent.subnet.limit            updowncounter
    epping.agent.subnet.unanswered       updowncounter
    epping.agent.subnet.retired          counter
    epping.agent.series.usage            updowncounter
    epping.agent.series.limit            updowncounter
    epping.agent.series.overflowed       updowncounter
    epping.agent.series.rolled_up        updowncounter
    epping.agent.read.duration           gauge
    epping.agent.export.duration         gauge
    epping.agent.export.failed           counter
    epping.agent.export.rejected         counter
    epping.agent.interface.event.count   counter
    epping.agent.flow.evicted            counter
    epping.agent.program.run.count       counter
    epping.agent.program.time            counter
    epping.agent.memory.usage            updowncounter
"""

import atexit
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import click
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider

from otel_epping.errors import EppingError
from otel_epping.instrumentor.package import _instruments
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.attach.hook_monitor import HookMonitor, check_in_background
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor, present
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.install import attach
from otel_epping.otel.private import metric_readers, resource_of
from otel_epping.settings import names
from otel_epping.settings.definitions import BY_KEY
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, all_options

_log = logging.getLogger("otel_epping")

_ONCE = "\0otel-epping/instrumentor"


def _arguments(options: dict[str, Any]) -> Iterator[str]:
    """Yields options as command-line flags, so that the command-line parser can check the values."""
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        elif isinstance(value, Mapping):
            yield f"--{flag}=" + ";".join(f"{name}={','.join(names)}" for name, names in value.items())
        elif isinstance(value, (list, tuple)):
            is_multiple = key in BY_KEY and BY_KEY[key].multiple
            yield from (f"--{flag}={each}" for each in (value if is_multiple else [",".join(value)]))
        else:
            yield f"--{flag}={value}"


def _settings(options: dict[str, Any]) -> Settings:
    """Merges `options`, the environment variables and the configuration file.

    Raises EppingError if a setting is wrong.
    """
    command = click.command("otel-epping", context_settings=COMMAND)(all_options(lambda settings: settings))
    try:
        settings: Settings = command.main(list(_arguments(options)), standalone_mode=False)
    except click.ClickException as error:
        raise EppingError(error.format_message()) from None
    return settings if settings.selection.all else replace(settings, interface=("auto",))


def _claim(undo: ExitStack) -> bool:
    """Reserves this network namespace for this process; returns False if another process has reserved the namespace.

    To reserve the namespace, the process binds an abstract Unix socket to a fixed name. The kernel frees this name when
    the process ends, even after SIGKILL.
    """
    holder = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        holder.bind(_ONCE)
    except OSError:
        return False
    return True


class EppingInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Counts round-trip times in the kernel and exports them through the application's MeterProvider."""

    _undo: Callable[[], None] | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Returns an empty tuple: the kernel's TCP/IP stack is measured, so no library has to be installed."""
        return _instruments

    def _instrument(self, **options: Any) -> None:
        """Starts the measurement. `meter_provider` defaults to the global provider; all other options are settings."""
        provider = options.pop("meter_provider", None) or get_meter_provider()
        with ExitStack() as undo:
            try:
                self._start(provider, options, undo)
            except (EppingError, OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
                _log.warning("the network is not measured: %s", error)
                return
            self._undo = undo.pop_all().close

    def _start(self, provider: object, options: dict[str, Any], undo: ExitStack) -> None:
        if not isinstance(provider, MeterProvider) or not metric_readers(provider):
            raise EppingError("no metric reader is configured: set OTEL_METRICS_EXPORTER or OTEL_CONFIG_FILE")
        settings = _settings(options)
        for name in settings.selection.names:
            interfaces.find(name)
        present(list(settings.selection.all))
        if not _claim(undo):
            _log.info("another process in this network namespace already measures the network")
            return
        files = names.open_files(settings)
        collector = EppingCollector(settings.kernel, settings.idle_timeout_ns, files.networks)
        undo.callback(collector.close)
        undo.callback(files.close)
        files.start(collector.change_networks)
        interface_monitor = InterfaceMonitor(collector.attachments, settings.selection)
        undo.callback(interface_monitor.close)
        interface_monitor.begin()
        export = settings.export(files.databases)
        # The SDK (1.45) has no public function that returns the readers or the resource of a provider.
        for reader in metric_readers(provider):
            undo.callback(attach(reader, collector, resource_of(provider), export))
        undo.callback(provider.force_flush)
        undo.callback(collector.attachments.detach_all)
        monitor = HookMonitor(collector.attachments, collector.interface_packets)
        end_monitor = check_in_background(monitor, collector.fold_newcomers)
        undo.callback(end_monitor)
        self._detach_at_exit(collector, end_monitor)
        _log.info("watching %s", ", ".join(collector.attachments.watched))

    def _detach_at_exit(self, collector: EppingCollector, end_monitor: Callable[[], None]) -> None:
        """Detaches the eBPF program before the provider shuts down, so that the last export includes all counts.

        Python calls functions registered with atexit in reverse order. The provider has registered its shutdown
        function before `detach` is registered, so `detach` is called before the shutdown function.
        """
        process = os.getpid()

        def detach() -> None:
            if os.getpid() == process:  # a forked worker must not detach: its parent process still measures
                end_monitor()
                collector.attachments.detach_all()

        atexit.register(detach)

    def _uninstrument(self, **_: Any) -> None:
        """Detaches the eBPF program from all interfaces, and exports the last counts."""
        if self._undo:
            self._undo()
            self._undo = None
