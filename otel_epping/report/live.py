# SPDX-License-Identifier: Apache-2.0
"""Measures interfaces for a limited time, for a report."""

import time

import click

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.watching import WatchedInterfaces
from otel_epping.kernel.load import capabilities
from otel_epping.networks.follower import FilesFollower
from otel_epping.process.signals import Stop
from otel_epping.replay.progress import progress_bar
from otel_epping.series.grouping import Grouping
from otel_epping.settings.model import Settings

# The progress bar is updated every second.
_STEP_S = 1.0
# A measurement has about this number of slices. A slice is at least _STEP_S long.
_SLICES = 120


def measure(settings: Settings, files: FilesFollower, grouping: Grouping, duration_s: float) -> History:
    """Returns the history of the selected interfaces, which ends after `duration_s` or at SIGINT or SIGTERM.

    Raises EppingError if the start fails, or if no packet was seen.
    """
    stop = Stop("stopped at once; nothing was written")
    history = History()
    with WatchedInterfaces(settings, files, grouping, history.numbering) as watched:
        if watched.kept:
            click.echo(f"otel-epping: {capabilities.describe(watched.kept)}", err=True)
        click.echo(
            f"otel-epping: measuring {watched.name} for {duration_s:g} s; Ctrl-C ends the measurement early, and "
            "writes the report",
            err=True,
        )
        _measure(watched, history, stop, duration_s)
        name = watched.name
    if not history.total().present().any():
        raise EppingError(
            f"no packet was seen on {name} in {history.total().seconds:.1f} s: choose an interface with traffic "
            "(`ip -s link` shows the packets of each interface), or measure longer with --duration"
        )
    return history


def _measure(watched: WatchedInterfaces, history: History, stop: Stop, duration_s: float) -> None:
    """Takes slices until the end of the measurement. The last slice is taken at the end."""
    now_s = began_s = time.monotonic()
    interval_s = max(_STEP_S, duration_s / _SLICES)
    due_s = began_s + interval_s
    with progress_bar("measuring", round(duration_s)) as progress:
        while now_s < began_s + duration_s and watched.wait(
            min(now_s + _STEP_S, due_s, began_s + duration_s), stop.wait
        ):
            before_s, now_s = now_s, time.monotonic()
            progress(round(now_s - began_s) - round(before_s - began_s))
            if now_s >= due_s:
                due_s += interval_s
                history.add(watched.take())
    history.add(watched.take())
