# SPDX-License-Identifier: Apache-2.0
"""Implements `otel-epping cost`: measures interfaces for a while, or the packets of captures."""

import select
import time
from collections.abc import Sequence
from contextlib import closing, suppress

import click

from otel_epping.cost.measure import Measurement, Meter
from otel_epping.errors import EppingError
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import capabilities
from otel_epping.networks.network import Networks
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.process import descriptors
from otel_epping.process.signals import Stop, enable_keyboard_interrupt
from otel_epping.replay.input_files import InputFiles
from otel_epping.replay.progress import progress_bar
from otel_epping.replay.replayer import Replayer
from otel_epping.replay.run import last_error
from otel_epping.settings.model import Settings

_NS = 1e9
# Every second, hooks are checked, and the slots of subnets that do not answer are freed.
_STEP_S = 1.0


def measure_captures(
    paths: Sequence[str],
    config: EppingConfig,
    networks: Networks | None,
    export: ExportSettings,
    interval_s: float,
) -> tuple[Measurement, list[str]]:
    """Measures the packets of captures, and returns the result and the failures to read files.

    All packets count as one interval. After Ctrl-C, returns the result for the packets that were read before. Raises
    EppingError if no file has a packet with a valid timestamp.
    """
    files = InputFiles(paths)
    if files.none_readable:
        raise last_error(files.failures)
    with closing(Replayer(config, networks)) as replayer:
        meter = Meter(replayer, export)
        enable_keyboard_interrupt()
        with suppress(KeyboardInterrupt), progress_bar("reading", files.total_bytes()) as progress:
            for batch in files.batches(progress):
                replayer.feed(batch)
        if not replayer.latest_ns:
            raise last_error([*files.failures, "nothing was measured: no packet has a valid timestamp"])
        source = paths[0] if len(paths) == 1 else f"{files.files_read} files"
        return meter.result(source, (replayer.latest_ns - replayer.started_ns) / _NS, interval_s), files.failures


def measure_interfaces(
    settings: Settings, networks: Networks | None, export: ExportSettings, duration_s: float, interval_s: float
) -> Measurement:
    """Measures the selected interfaces for a while, or until SIGINT or SIGTERM.

    Raises EppingError if the start fails, or if no packet was seen.
    """
    descriptors.raise_limit()
    stop = Stop("stopped at once; nothing was measured")
    with EppingCollector(settings.kernel, settings.idle_timeout_ns, networks) as collector:
        # agent/run.py explains why CAP_NET_ADMIN is kept with clsact. otel-epping has only one thread at this point.
        if kept := capabilities.drop_capabilities({"CAP_NET_ADMIN"} if collector.attachments.hook == "clsact" else ()):
            click.echo(f"otel-epping: {capabilities.describe(kept)}", err=True)
        meter = Meter(collector, export)
        with (
            closing(InterfaceMonitor(collector.attachments, settings.selection, stop.is_set)) as interfaces,
            closing(HookMonitor(collector.attachments, collector.interface_packets)) as hooks,
        ):
            interfaces.begin()
            names = ", ".join(collector.attachments.watched or settings.selection.all)
            click.echo(
                f"otel-epping: measuring {names} for {duration_s:g} s; Ctrl-C ends the measurement early", err=True
            )
            began_s = time.monotonic()
            _wait(collector, interfaces, hooks, meter, stop, duration_s, interval_s)
            span_s = time.monotonic() - began_s
            names = ", ".join(collector.attachments.watched) or names
            # The result is made while the program is attached, because some points describe attached interfaces.
            result = meter.result(names, span_s, interval_s)
    if not result.packets:
        raise EppingError(
            f"no packet was seen on {names} in {span_s:.1f} s: choose an interface with traffic (`ip -s link` shows "
            "the packets of each interface), or measure longer with --duration"
        )
    return result


def _wait(
    collector: EppingCollector,
    interfaces: InterfaceMonitor,
    hooks: HookMonitor,
    meter: Meter,
    stop: Stop,
    duration_s: float,
    interval_s: float,
) -> None:
    """Watches the interfaces until the end of the measurement. Reads the counts after each interval, as the agent does.

    The last reading is made at the end of the measurement.
    """
    now_s = began_s = time.monotonic()
    due_s = began_s + interval_s
    with progress_bar("measuring", round(duration_s)) as progress:
        while not stop.is_set() and now_s < began_s + duration_s:
            hooks.check()
            collector.fold_newcomers()
            if interfaces.is_outdated or select.select([interfaces], [], [], 0)[0]:
                interfaces.follow()
            if now_s >= due_s:
                due_s += interval_s
                meter.read()
            stop.wait(min(_STEP_S, began_s + duration_s - now_s))
            before_s, now_s = now_s, time.monotonic()
            progress(round(now_s - began_s) - round(before_s - began_s))
