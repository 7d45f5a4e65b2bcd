# SPDX-License-Identifier: Apache-2.0
"""Measures interfaces for a while, for a report."""

import select
import time
from contextlib import closing

import click

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.live import LiveSource
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.load import capabilities
from otel_epping.networks.network import Networks
from otel_epping.process import descriptors
from otel_epping.process.signals import Stop
from otel_epping.replay.progress import progress_bar
from otel_epping.series.grouping import Grouping
from otel_epping.settings.model import Settings

# Every second, hooks are checked, and the slots of subnets that do not answer are freed.
_STEP_S = 1.0
# A measurement has about this number of slices, of at least _STEP_S.
_SLICES = 120


def measure(settings: Settings, networks: Networks | None, grouping: Grouping, duration_s: float) -> History:
    """Returns the history of the selected interfaces, which ends after `duration_s` or at SIGINT or SIGTERM.

    Raises EppingError if the start fails, or if no packet was seen.
    """
    descriptors.raise_limit()
    stop = Stop("stopped at once; nothing was written")
    history = History()
    with EppingCollector(settings.kernel, settings.idle_timeout_ns, networks) as collector:
        # agent/run.py explains why CAP_NET_ADMIN is kept with clsact. otel-epping has only one thread at this point.
        if kept := capabilities.drop_capabilities({"CAP_NET_ADMIN"} if collector.attachments.hook == "clsact" else ()):
            click.echo(f"otel-epping: {capabilities.describe(kept)}", err=True)
        source = LiveSource(collector, history.numbering, grouping)
        with (
            closing(InterfaceMonitor(collector.attachments, settings.selection, stop.is_set)) as interfaces,
            closing(HookMonitor(collector.attachments, collector.interface_packets)) as hooks,
        ):
            interfaces.begin()
            names = ", ".join(collector.attachments.watched or settings.selection.all)
            click.echo(
                f"otel-epping: measuring {names} for {duration_s:g} s; Ctrl-C ends the measurement early, and writes "
                "the report",
                err=True,
            )
            _measure(collector, interfaces, hooks, source, history, stop, duration_s)
            names = ", ".join(collector.attachments.watched) or names
    if not history.total().present().any():
        raise EppingError(
            f"no packet was seen on {names} in {history.total().seconds:.1f} s: choose an interface with traffic "
            "(`ip -s link` shows the packets of each interface), or measure longer with --duration"
        )
    return history


def _measure(
    collector: EppingCollector,
    interfaces: InterfaceMonitor,
    hooks: HookMonitor,
    source: LiveSource,
    history: History,
    stop: Stop,
    duration_s: float,
) -> None:
    """Takes slices until the end of the measurement. The last slice is taken at the end."""
    now_s = began_s = time.monotonic()
    interval_s = max(_STEP_S, duration_s / _SLICES)
    due_s = began_s + interval_s
    with progress_bar("measuring", round(duration_s)) as progress:
        while not stop.is_set() and now_s < began_s + duration_s:
            hooks.check()
            collector.fold_newcomers()
            if interfaces.is_outdated or select.select([interfaces], [], [], 0)[0]:
                interfaces.follow()
            if now_s >= due_s:
                due_s += interval_s
                history.add(source.take())
            stop.wait(min(_STEP_S, due_s - now_s if due_s > now_s else 0, began_s + duration_s - now_s))
            before_s, now_s = now_s, time.monotonic()
            progress(round(now_s - began_s) - round(before_s - began_s))
    history.add(source.take())
