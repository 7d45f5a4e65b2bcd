# SPDX-License-Identifier: Apache-2.0
"""The verdict: sentences that name the slow networks, the number of their RTTs, and whether load is the cause."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, Line
from otel_epping.history.load import LoadLatency, latency_under_load
from otel_epping.history.statistics import MIN_SAMPLES, LineStatistics, line_statistics
from otel_epping.kernel.arrays import Flags, Indexes

# The causes of a slow network.
LOAD, NOT_LOAD, UNKNOWN = "load", "not load", "unknown"
# The ratings of a network.
GOOD, FAIR, SLOW = "good", "fair", "slow"
_MAX_NAMED = 3


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the verdict and of colours. Times are in seconds, shares are from 0 to 1.

    fair         lowest excess (mean RTT - minimum RTT) with the rating FAIR
    slow         lowest excess with the rating SLOW
    load         lowest latency under load that makes load the cause
    loss         lowest share of retransmitted segments that the sentence mentions
    ce           lowest share of packets marked CE, of the packets with ECN, that the sentence mentions
    min_samples  lowest number of RTTs with which a network is judged
    """

    fair: float = 0.015
    slow: float = 0.030
    load: float = 0.015
    loss: float = 0.02
    ce: float = 0.01
    min_samples: int = MIN_SAMPLES

    def rating(self, excess: float) -> str:
        """Returns the rating of a network, for its colour: GOOD, FAIR or SLOW; UNKNOWN if `excess` is NaN."""
        if np.isnan(excess):
            return UNKNOWN
        return GOOD if excess < self.fair else FAIR if excess < self.slow else SLOW


class SlowNetwork(NamedTuple):
    """A slow network. Times are in seconds. NaN means that a value is unknown.

    number   the number of the line
    excess   mean RTT - minimum RTT
    p95      95th percentile of the RTTs
    samples  number of RTTs
    load     latency under load: busy - quiet
    quiet    80th percentile of the RTTs in the quietest periods
    busy     80th percentile of the RTTs in the busiest periods
    loss     share of retransmitted segments, in the direction with the greater share
    ce       share of packets marked CE, in the direction with the greater share
    cause    LOAD, NOT_LOAD or UNKNOWN
    """

    number: int
    excess: float
    p95: float
    samples: int
    load: float
    quiet: float
    busy: float
    loss: float
    ce: float
    cause: str


class Verdict(NamedTuple):
    """The verdict.

    sentence   the verdict in one to three sentences
    slow       the slow networks, in the order of impact
    judged     number of networks with enough RTTs
    uncertain  number of networks with too few RTTs
    samples    number of RTTs of all networks
    """

    sentence: str
    slow: list[SlowNetwork]
    judged: int
    uncertain: int
    samples: int


def verdict(
    history: History,
    thresholds: Thresholds | None = None,
    *,
    statistics: LineStatistics | None = None,
    load: LoadLatency | None = None,
    names: Sequence[str] | None = None,
) -> Verdict:
    """Returns the verdict about all networks of a history.

    statistics, load  statistics and latency under load of the history, if these are computed already
    names             the text for each line; by default, the label
    """
    thresholds = thresholds or Thresholds()
    found = statistics or line_statistics(history.total())
    under_load = load or latency_under_load(history)
    networks = history.numbering.are_networks()
    judged = np.flatnonzero(networks & (found.samples >= thresholds.min_samples) & ~np.isnan(found.excess))
    is_seen = (found.samples > 0) | (found.packets > 0)
    uncertain = int(np.count_nonzero(networks & is_seen & (found.samples < thresholds.min_samples)))
    slow = judged[found.excess[judged] >= thresholds.slow]
    # Without counts of bytes, the impact is unknown. Then the slowest network comes first.
    slow = slow[np.lexsort((-found.excess[slow], -np.nan_to_num(found.impact[slow])))]
    worst = [_slow_network(number, found, under_load, thresholds) for number in slow.tolist()]
    samples = int(found.samples[networks].sum())
    names = names or _names(history.lines)
    if not len(judged):
        sentence = _no_verdict(found, networks, uncertain, thresholds, names)
    elif not worst:
        sentence = _all_well(judged, found, names)
    else:
        sentence = _slow_sentence(worst, len(judged), names, thresholds)
    if len(judged) and uncertain:
        sentence += f" {_count(uncertain, 'further network')} had fewer than {thresholds.min_samples} RTT samples."
    return Verdict(sentence, worst, len(judged), uncertain, samples)


def _slow_network(number: int, found: LineStatistics, under_load: LoadLatency, thresholds: Thresholds) -> SlowNetwork:
    load, quiet, busy = (float(each[number]) for each in (under_load.added, under_load.quiet, under_load.busy))
    cause = UNKNOWN if np.isnan(load) else LOAD if load >= thresholds.load else NOT_LOAD
    loss = np.fmax(found.loss_from[number], found.loss_to[number])
    ce = np.fmax(found.ce_from[number], found.ce_to[number])
    excess, p95, samples = found.excess[number], found.p95[number], found.samples[number]
    return SlowNetwork(
        number, float(excess), float(p95), int(samples), load, quiet, busy, float(loss), float(ce), cause
    )


def _names(lines: Sequence[Line]) -> list[str]:
    """Returns the text for each line. Lines with the same label are distinguished by agent, interface and side."""
    labels = [line.label for line in lines]
    often = Counter(labels)
    return [
        text if often[text] == 1 else f"{text} ({', '.join(filter(None, (line.agent, line.interface, line.side)))})"
        for text, line in zip(labels, lines, strict=True)
    ]


def _no_verdict(
    found: LineStatistics, networks: Flags, uncertain: int, thresholds: Thresholds, names: Sequence[str]
) -> str:
    if not found.samples.any():
        return "No verdict: no RTT was measured."
    best = int(np.argmax(np.where(networks, found.samples, 0)))
    if not (networks[best] and found.samples[best]):
        return f'No verdict: all RTTs are in the line "{Line(OVERFLOW).label}": the number of networks was limited.'
    if found.samples[best] >= thresholds.min_samples:
        return "No verdict: the source has no sums of RTTs, so the mean RTTs are unknown."
    return (
        f"No verdict: none of {_count(uncertain, 'network')} has {thresholds.min_samples} RTT samples. "
        f"{names[best]} has most: {found.samples[best]:,}."
    )


def _all_well(judged: Indexes, found: LineStatistics, names: Sequence[str]) -> str:
    worst = int(judged[np.argmax(found.excess[judged])])
    figures = f"adds {_ms(found.excess[worst])} (p95 {_ms(found.p95[worst])}, {found.samples[worst]:,} samples)"
    if len(judged) == 1:
        return f"The network is not slow: {names[worst]} {figures}."
    return f"None of {len(judged):,} networks is slow. The slowest, {names[worst]}, {figures}."


def _slow_sentence(worst: Sequence[SlowNetwork], judged: int, names: Sequence[str], thresholds: Thresholds) -> str:
    """Returns the sentence that names the slow networks."""
    named = [
        f"{names[each.number]} adds {_ms(each.excess)} (p95 {_ms(each.p95)}, {each.samples:,} samples)"
        + _why(each, thresholds)
        for each in worst[:_MAX_NAMED]
    ]
    text = "; ".join(named)
    if more := len(worst) - len(named):
        text += f"; and {more:,} more"
    unknown = [names[each.number] for each in worst[:_MAX_NAMED] if each.cause == UNKNOWN]
    which = f" for {', '.join(unknown)}" if len(unknown) < len(named) else ""
    end = f" There are too few data to tell whether load is the cause{which}." if unknown else ""
    if judged == 1:
        return f"The network is slow: {text}.{end}"
    return f"Of {judged:,} networks, {len(worst):,} {'is' if len(worst) == 1 else 'are'} slow: {text}.{end}"


def _why(network: SlowNetwork, thresholds: Thresholds) -> str:
    """Returns the end of a clause about a network: whether load is the cause, loss, and congestion marks."""
    reasons = []
    if network.cause == LOAD:
        reasons.append(f"because of load: {_ms(network.quiet)} when quiet, {_ms(network.busy)} when busy")
    elif network.cause == NOT_LOAD:
        reasons.append("not because of load")
    if network.loss >= thresholds.loss:
        reasons.append(f"{network.loss:.1%} retransmitted")
    if network.ce >= thresholds.ce:
        reasons.append(f"{network.ce:.1%} marked by ECN")
    return "".join(f", {reason}" for reason in reasons)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _ms(seconds: float) -> str:
    """Returns a time in ms. A time of less than 10 ms has one decimal place."""
    ms = seconds * 1e3
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
