# SPDX-License-Identifier: Apache-2.0
"""The statistics of lines that `top` and `report` show, for all lines at once.

docs/statistics.md defines the statistics.

Each array has a row for each line. NaN means that a value is unknown. A value is unknown if the source does not have
the counts, or if there are too few samples.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from otel_epping.history.histograms import Floats
from otel_epping.history.line_rtts import LineRtts
from otel_epping.history.total import Total
from otel_epping.kernel.arrays import Counts, Flags
from otel_epping.otel import metric_table

# A line with fewer RTTs is uncertain.
MIN_SAMPLES = 20

_NS = 1e9
_TCP_CLASSES = ("tcp_timestamp", "tcp_other")
_FROM, _TO = "from", "to"


class LineStatistics(NamedTuple):
    """The statistics of n lines. All arrays have the shape (n,). Times are in seconds, shares are from 0 to 1.

    samples      number of RTTs
    is_certain   true if there are at least MIN_SAMPLES RTTs
    p50, p95, p99, mean, maximum  the quantiles, the mean and the maximum of the RTTs
    minimum      the minimum RTT of the session, or of the sum if no session is given
    excess       mean RTT - minimum RTT
    impact       bytes x excess per second, in byte seconds per second
    bits_from, bits_to  traffic from and to the network, bit/s
    packets      number of packets, in both directions
    octets       number of bytes, in both directions
    loss_from, loss_to  retransmitted segments / TCP segments, from and to the network
    ce_from, ce_to      packets marked CE / packets with ECN, from and to the network
    coverage     TCP packets with timestamps / TCP packets
    tcp_packets  number of TCP packets, in both directions
    flows        number of active TCP flows
    """

    samples: Counts
    is_certain: Flags
    p50: Floats
    p95: Floats
    p99: Floats
    mean: Floats
    maximum: Floats
    minimum: Floats
    excess: Floats
    impact: Floats
    bits_from: Floats
    bits_to: Floats
    packets: Floats
    octets: Floats
    loss_from: Floats
    loss_to: Floats
    ce_from: Floats
    ce_to: Floats
    coverage: Floats
    tcp_packets: Floats
    flows: Floats


def line_statistics(
    total: Total, session: LineRtts | None = None, methods: Collection[str] | None = None
) -> LineStatistics:
    """Returns the statistics of a sum of slices.

    session  the RTTs from which the minimum RTT is taken; by default, the RTTs of `total`
    methods  the methods whose RTTs are used; by default, all methods
    """
    rtts = total.rtts(methods)
    samples = rtts.counts
    p50, p95, p99, highest = rtts.quantiles(0.5, 0.95, 0.99, 1)
    mean, minimum = rtts.means(), minimum_rtts(session or rtts)
    excess = np.maximum(mean - minimum, 0)
    octets = _sum(total, metric_table.SUBNET_BYTES.name)
    ways = {way: _sum(total, metric_table.SUBNET_BYTES.name, direction=way) for way in (_FROM, _TO)}
    tcp = {way: _tcp_packets(total, way) for way in (_FROM, _TO)}
    with_timestamps = _sum(total, metric_table.SUBNET_PACKETS.name, traffic_class="tcp_timestamp")
    seconds = total.seconds or np.nan
    return LineStatistics(
        samples=samples,
        is_certain=samples >= MIN_SAMPLES,
        p50=p50,
        p95=p95,
        p99=p99,
        mean=mean,
        maximum=np.where(rtts.max_ns != 0, rtts.max_ns / _NS, highest),
        minimum=minimum,
        excess=excess,
        impact=octets * excess / seconds,
        bits_from=ways[_FROM] * 8 / seconds,
        bits_to=ways[_TO] * 8 / seconds,
        packets=_sum(total, metric_table.SUBNET_PACKETS.name),
        octets=octets,
        loss_from=_share(_sum(total, metric_table.RETRANSMITTED.name, direction=_FROM), tcp[_FROM]),
        loss_to=_share(_sum(total, metric_table.RETRANSMITTED.name, direction=_TO), tcp[_TO]),
        ce_from=_ce(total, _FROM),
        ce_to=_ce(total, _TO),
        coverage=_share(with_timestamps, tcp[_FROM] + tcp[_TO]),
        tcp_packets=tcp[_FROM] + tcp[_TO],
        flows=_sum(total, metric_table.ACTIVE_FLOWS.name),
    )


def minimum_rtts(rtts: LineRtts) -> Floats:
    """Returns the minimum RTT of each line in seconds. A line without RTTs has NaN.

    If the minimum is unknown, the result is the middle of the lowest bucket with RTTs.
    """
    (lowest,) = rtts.quantiles(0)
    return np.asarray(np.where(rtts.min_ns != 0, rtts.min_ns / _NS, lowest))


def _sum(total: Total, metric: str, **attributes: str) -> Floats:
    """Returns the sum of a metric as floats: (n,). NaN means that the sum is unknown."""
    counts = total.sum(metric, **attributes)
    if counts is None:
        return np.full(total.lines, np.nan)
    values = counts.astype(np.float64)
    if attributes:
        values[~total.numbering.are_networks()] = np.nan
    return values


def _tcp_packets(total: Total, way: str) -> Floats:
    timestamp, other = (
        _sum(total, metric_table.SUBNET_PACKETS.name, direction=way, traffic_class=each) for each in _TCP_CLASSES
    )
    return np.asarray(timestamp + other)


def _ce(total: Total, way: str) -> Floats:
    marked = _sum(total, metric_table.SUBNET_ECN.name, direction=way, ecn="ce")
    return _share(marked, _sum(total, metric_table.SUBNET_ECN.name, direction=way))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def change(now: LineRtts, baseline: LineRtts, q: float = 0.95) -> Floats:
    """Returns the current quantile minus the quantile of the baseline, in seconds; NaN with too few samples."""
    (after,), (before,) = now.quantiles(q), baseline.quantiles(q)
    is_certain = (now.counts >= MIN_SAMPLES) & (baseline.counts >= MIN_SAMPLES)
    return np.asarray(np.where(is_certain, after - before, np.nan))
