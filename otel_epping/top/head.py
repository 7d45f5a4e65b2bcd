# SPDX-License-Identifier: Apache-2.0
"""The lines above the table: source and time, coverage, and the worst network in one sentence."""

import math
from collections.abc import Iterator

import numpy as np

from otel_epping.history.statistics import MIN_SAMPLES
from otel_epping.series.grouping import NAME, SUBNET
from otel_epping.top import text
from otel_epping.top.frame import Frame, summary
from otel_epping.top.measuring import Update
from otel_epping.top.text import Glyphs
from otel_epping.top.view import View

# A network is slow only if its mean RTT exceeds its minimum RTT by this time in seconds.
_WORST_EXCESS_S = 0.001
# Minimum width of a shortened name of the source.
_MIN_NAME = 8


def title(update: Update, view: View, width: int, glyphs: Glyphs, *, is_frozen: bool) -> str:
    """Returns the source, the time, and the state of the screen. Shortens the source if the text exceeds `width`."""
    frame = update.frame
    begin_ns, end_ns = update.session
    window = "the whole session" if view.window_s is None else f"the last {text.duration(frame.total.seconds)}"
    if update.is_live:
        when = text.clock(frame.end_ns) if frame.end_ns else "starting"
        parts = [update.name, when, window, f"running {text.duration((end_ns - begin_ns) / 1e9)}"]
    else:
        when = text.date_and_clock(frame.end_ns) if frame.end_ns else "no time"
        parts = [update.name, when, "all packets" if view.window_s is None else window]
    if is_frozen:
        parts.append("FROZEN (Space continues)")
    excess = text.cells("  ".join(parts)) - width
    if excess > 0:
        parts[0] = glyphs.fit(update.name, max(text.cells(update.name) - excess, _MIN_NAME)).rstrip()
    return "  ".join(parts)


def numbers(frame: Frame, view: View, width: int | None = None) -> str:
    """Returns the numbers that show how complete the measurement is.

    If the text is longer than `width`, the text is shortened, and the least important numbers are left out.
    """
    found = summary(frame)
    parts = [f"{found.networks:,} {'networks' if view.group_by == SUBNET else 'groups'}"]
    if not math.isnan(found.samples_s):
        parts.append(f"{text.scaled(found.samples_s)} RTTs/s")
    if found.coverage is not None:
        parts.append(f"coverage {found.coverage:.0%} of TCP")
    aggregated = None if found.aggregated is None else f"aggregated {text.percent(found.aggregated)}%"
    if aggregated and found.aggregated:
        parts.append(aggregated)
    if found.never_answered is not None:
        parts.append(f"never answered {found.never_answered:,} ({text.percent(found.unanswered or 0)}%)")
    if aggregated and not found.aggregated:
        parts.append(aggregated)
    if width is not None and len("  ".join(parts)) > width:
        parts = [part.removesuffix(" of TCP") for part in parts]
        while len(parts) > 1 and len("  ".join(parts)) > width:
            parts.pop()
    return "  ".join(parts)


def verdict(frame: Frame, view: View) -> str:
    """Returns a sentence about the network with the greatest impact."""
    found = frame.statistics
    are_networks = frame.total.numbering.are_networks() & ~view.are_without_group(frame.lines)
    is_certain = found.is_certain & are_networks & ~np.isnan(found.impact)
    if not found.samples.any():
        return ""
    if view.group_by not in (SUBNET, NAME):
        return "Networks of a group have different minimum RTTs: compare groups by change."
    if not found.samples[are_networks].any():
        return 'No network has RTTs. If "all others" has RTTs, use a larger --max-subnets.'
    if not is_certain.any():
        return f"No network has {MIN_SAMPLES} RTT samples yet: all numbers are uncertain."
    is_slow = is_certain & (found.excess >= _WORST_EXCESS_S)
    if not is_slow.any():
        return "No network is slow: each mean RTT is within 1 ms of the network's minimum RTT."
    line = int(np.argmax(np.where(is_slow, found.impact, -1)))
    excess, minimum, p95 = (text.milliseconds(float(each[line])) for each in (found.excess, found.minimum, found.p95))
    return f"Worst: {view.label(frame.lines[line])}: mean {excess} ms above its minimum of {minimum} ms, p95 {p95} ms"


def states(update: Update, view: View) -> Iterator[str]:
    """Yields the settings of the table: the order, the filter, the group and the baseline."""
    yield f"sort {view.sort}{' (reversed)' if view.ascending else ''}"
    if view.group_by != "subnet":
        yield f"group {view.group_by}"
    if view.filter.text:
        yield f"filter {view.filter_text}"
    begin_ns, end_ns = update.baseline
    if not np.isnan(update.frame.change_s).all():
        yield f"change since {text.moment(begin_ns, update.session)}-{text.moment(end_ns, update.session)}"
    elif end_ns and view.window_s is not None:
        yield f"change known at {text.moment(end_ns + round(view.window_s * 1e9), update.session)}"
