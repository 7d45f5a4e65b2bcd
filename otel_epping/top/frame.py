# SPDX-License-Identifier: Apache-2.0
"""A frame: the numbers of all lines in a window of time. The table shows a frame."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from otel_epping.history import statistics
from otel_epping.history.histograms import Floats
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.statistics import LineStatistics
from otel_epping.history.total import Total
from otel_epping.kernel.arrays import Flags, Times
from otel_epping.otel import agent_metrics, metric_table
from otel_epping.top.strips import Axis, axis_of


@dataclass(frozen=True)
class Frame:
    """The numbers of a window of time. Each array has a row for each line.

    total        the counts of the window
    lines        the networks or groups of the rows
    rtts         the RTTs of the window, of the chosen methods
    axis         the axis of histogram strips
    statistics   the statistics of the window. The minimum RTT is the minimum RTT of the session
    change_s     p95 of the window minus p95 of the baseline, in seconds; NaN if the change is unknown
    under_load_s latency under load in seconds; NaN if the latency is unknown
    loss         retransmitted segments / TCP segments, of both directions
    seen_ns      the end of the latest slice with packets of each line, Unix time, ns
    session_s    duration of the session in seconds
    """

    total: Total
    lines: Sequence[Line]
    rtts: LineRtts
    axis: Axis
    statistics: LineStatistics
    change_s: Floats
    under_load_s: Floats
    loss: Floats
    seen_ns: Times
    session_s: float

    @property
    def end_ns(self) -> int:
        """The end of the window, Unix time, ns."""
        return self.total.end_ns

    @property
    def present(self) -> Flags:
        """True for each line that has counts in the window."""
        return self.total.present()

    @property
    def impact_share(self) -> Floats:
        """The impact of each network / the impact of all networks. NaN for lines that are not networks."""
        impact = np.where(self.total.numbering.are_networks(), self.statistics.impact, np.nan)
        return np.asarray(impact / (np.nansum(impact) or 1))

    @property
    def age_s(self) -> Floats:
        """The time since the latest packet of each line, in seconds."""
        return np.asarray((self.end_ns - self.seen_ns) / 1e9)


@dataclass(frozen=True)
class Summary:
    """The numbers above the table. None means that a number is unknown.

    networks       number of networks in the window
    samples_s      RTT samples per second
    coverage       TCP packets with timestamps / TCP packets
    aggregated     share of the packets of the line "all others", because the number of subnets is limited
    unanswered     share of the packets of subnets that never answered
    never_answered number of subnets that never answered, in the latest interval
    """

    networks: int
    samples_s: float
    coverage: float | None
    aggregated: float | None
    unanswered: float | None
    never_answered: int | None


def summary(frame: Frame) -> Summary:
    """Returns the numbers above the table."""
    total = frame.total
    are_networks = total.numbering.are_networks()
    kinds = np.array([line.kind for line in frame.lines])
    packets = np.nan_to_num(frame.statistics.packets)
    everything = packets.sum()

    def share(kind: str) -> float | None:
        return float(packets[kinds == kind].sum() / everything) if everything else None

    tcp = np.nan_to_num(frame.statistics.tcp_packets)[are_networks].sum()
    with_timestamps = total.sum(metric_table.SUBNET_PACKETS.name, traffic_class="tcp_timestamp")
    never = total.agent_sum(agent_metrics.SUBNET_UNANSWERED.name)
    return Summary(
        networks=int(np.count_nonzero(frame.present & are_networks)),
        samples_s=float(frame.statistics.samples.sum() / (total.seconds or np.nan)),
        coverage=float(with_timestamps[are_networks].sum() / tcp) if tcp and with_timestamps is not None else None,
        aggregated=share(OVERFLOW),
        unanswered=share(UNANSWERED),
        never_answered=None if never is None else int(never),
    )


def make_frame(
    window: Total,
    session: LineRtts,
    session_s: float,
    seen_ns: Times,
    baseline: LineRtts | None,
    under_load_s: Floats | None = None,
    methods: Collection[str] | None = None,
) -> Frame:
    """Computes a frame. `baseline` has the RTTs with which the window is compared.

    `methods` has the methods whose RTTs are used. `window` must not change later.
    """
    rtts = window.rtts(methods)
    lines = window.lines
    for each in (session, baseline):
        if each is not None:
            each.grow(lines)
    unknown = np.full(lines, np.nan)
    load = unknown.copy()
    if under_load_s is not None:
        load[: len(under_load_s)] = under_load_s
    found = statistics.line_statistics(window, session, methods)
    retransmitted = window.sum(metric_table.RETRANSMITTED.name)
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = unknown if retransmitted is None else retransmitted / found.tcp_packets
    return Frame(
        total=window,
        lines=list(window.numbering.lines),
        rtts=rtts,
        axis=axis_of(rtts),
        statistics=found,
        change_s=unknown if baseline is None else statistics.change(rtts, baseline),
        under_load_s=load,
        loss=np.where(np.isfinite(loss), loss, np.nan),
        seen_ns=seen_ns,
        session_s=session_s,
    )
