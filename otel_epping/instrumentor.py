# SPDX-License-Identifier: Apache-2.0
"""EppingInstrumentor: the network of an application beside its own metrics, through its own exporters.

    OTEL_EPPING_INTERFACE=eth0 opentelemetry-instrument python app.py

Settings are those of the agent: OTEL_EPPING_* variables, the file that OTEL_EPPING_CONFIG names, arguments of
instrument(), or options under `instrumentation/development: python: otel_epping:` in the file that OTEL_CONFIG_FILE
names. Without an interface among them, those with a default route at the start are watched.

An interface is measured once, not once a process. The first process of a network namespace does it, and all others, be
they instrumented subprocesses or other applications of a pod, leave it to that one. The workers that a server forks
from it hold the program in the kernel with it, and export nothing of it.

Whatever keeps us from measuring (no privileges, no BCC, a wrong setting) costs the application one warning.
"""

import atexit
import logging
import os
import socket
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import click
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider

from otel_epping.errors import EppingError
from otel_epping.kernel.attach import interfaces
from otel_epping.kernel.attach.hook_monitor import HookMonitor, check_in_background
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor, present
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.pipeline import attach
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, all_options

_log = logging.getLogger("otel_epping")

_ONCE = "\0otel-epping/instrumentor"


def _arguments(options: dict[str, Any]) -> Iterator[str]:
    """Options as flags, so that the same code checks them."""
    for key, value in options.items():
        flag = key.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}={each}" for each in (value if isinstance(value, (list, tuple)) else [value]))


def _settings(options: dict[str, Any]) -> Settings:
    """The settings that hold. Raises EppingError for one that is wrong."""
    command = click.command("otel-epping", context_settings=COMMAND)(all_options(lambda settings: settings))
    try:
        settings: Settings = command.main(list(_arguments(options)), standalone_mode=False)
    except click.ClickException as error:
        raise EppingError(error.format_message()) from None
    return settings if settings.selection.all else replace(settings, interface=("auto",))


def _be_the_one(undo: ExitStack) -> bool:
    """Whether no other process of our network namespace measures; the kernel frees the name however we end."""
    holder = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    try:
        holder.bind(_ONCE)
    except OSError:
        return False
    return True


class EppingInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Counts round-trip times in the kernel, and has the application's MeterProvider export them."""

    _undo: Callable[[], None] | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """No library is instrumented, so none is needed."""
        return ()

    def _instrument(self, **options: Any) -> None:
        """Begins to measure. `meter_provider` is the global one by default; other options are settings."""
        provider = options.pop("meter_provider", None) or get_meter_provider()
        with ExitStack() as undo:
            try:
                self._begin(provider, options, undo)
            except (EppingError, OSError, RuntimeError) as error:  # RuntimeError: no thread can be started
                _log.warning("the network is not measured: %s", error)
                return
            self._undo = undo.pop_all().close

    def _begin(self, provider: object, options: dict[str, Any], undo: ExitStack) -> None:
        if not isinstance(provider, MeterProvider) or not provider._metric_readers:
            raise EppingError("no reader of metrics is configured: set OTEL_METRICS_EXPORTER, or OTEL_CONFIG_FILE")
        settings = _settings(options)
        for name in settings.selection.names:
            interfaces.find(name)
        present(list(settings.selection.all))
        if not _be_the_one(undo):
            _log.info("another process of this network namespace measures already")
            return
        collector = EppingCollector(settings.kernel, settings.limits)
        undo.callback(collector.close)
        follower = InterfaceMonitor(collector.attachments, settings.selection)
        undo.callback(follower.close)
        follower.begin()
        # No public way leads from a provider to its readers, nor to its resource (SDK 1.45).
        for reader in provider._metric_readers:
            undo.callback(attach(reader, collector, provider._sdk_config.resource))
        undo.callback(provider.force_flush)
        undo.callback(collector.attachments.detach_all)
        end_monitor = check_in_background(HookMonitor(collector.attachments, collector.interface_packets))
        undo.callback(end_monitor)
        self._detach_at_exit(collector, end_monitor)
        _log.info("watching %s", ", ".join(collector.attachments.watched))

    def _detach_at_exit(self, collector: EppingCollector, end_monitor: Callable[[], None]) -> None:
        """Before the provider's own shutdown, which came first, so that its last export has all that was counted."""
        process = os.getpid()

        def detach() -> None:
            if os.getpid() == process:  # a worker that was forked must not take away what its parent counts with
                end_monitor()
                collector.attachments.detach_all()

        atexit.register(detach)

    def _uninstrument(self, **_: Any) -> None:
        """Exports what was counted, and takes the program off all interfaces."""
        if self._undo:
            self._undo()
            self._undo = None
