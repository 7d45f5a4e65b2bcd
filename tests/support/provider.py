# SPDX-License-Identifier: Apache-2.0
"""Makes the history of an invented provider: many named customers, some networks in the internet, and known faults.

The networks and times of the faults are fixed, so that tests can find the faults:

    bufferbloat       the RTTs of the first 3 % of the customers grow by 180 ms while their traffic is high
    lossy tower       5 % of the segments to and from the customers of the tower "Hill" are retransmitted
    route change      on the 11th day, the RTTs of all networks in the internet with an even number are 60 ms longer
    restart           the agent does not run in one hour of the 16th day
"""

import numpy as np
import numpy.typing as npt

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.slice import AgentValues, Rtts, Slice
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of
from otel_epping.otel import metric_table as metrics

HOUR_NS = 3600 * 10**9
DAY_HOURS = 24
BEGIN_NS = 1_790_812_800 * 10**9  # 2026-10-01 00:00 UTC
SCALE = 3
TOWERS = ("Hill", "Church", "Mill", "Harbour", "School", "Station", "Forest", "Lake")
FIRST_NAMES = ("Miller", "Okafor", "Nguyen", "Garcia", "Schmidt", "Ivanova", "Khan", "Rossi", "Kowalski", "Tanaka")
ORGANIZATIONS = ("Example Video", "Example Cloud", "Example Games", "Example Social", "Example Transit")
_BLOATED_S, _DETOUR_S = 0.18, 0.06
_LOSS, _TOWER_LOSS = 0.002, 0.05
# The buckets of all histograms: from 0.5 ms to 16 s.
_FIRST, _LAST = -11 * 2**SCALE, 4 * 2**SCALE

Floats = npt.NDArray[np.float64]


def customers_with_bufferbloat(customers: int) -> int:
    """Return the number of customers whose RTTs grow with their traffic. These customers are the first lines."""
    return max(1, round(0.03 * customers))


def lines(networks: int) -> list[Line]:
    """Return the lines of the provider: 95 % customers, 5 % networks in the internet, and the two aggregates."""
    customers = max(1, round(0.95 * networks))
    inside = [
        Line(
            name=f"{FIRST_NAMES[number % len(FIRST_NAMES)]} {number:04d}",
            tags=(("tower", TOWERS[number % len(TOWERS)]),),
            interface="lan0",
            side="internal",
        )
        for number in range(customers)
    ]
    outside = [
        Line(
            subnet=f"198.51.{number}.0/24",
            network_type="ipv4",
            as_number=64500 + number,
            as_organization=ORGANIZATIONS[number % len(ORGANIZATIONS)],
            country=("DE", "US", "NL", "JP")[number % 4],
            interface="lan0",
            side="external",
        )
        for number in range(networks - customers)
    ]
    return [*inside, *outside, Line(OVERFLOW), Line(UNANSWERED)]


def provider(networks: int = 1000, hours: int = 30 * DAY_HOURS, seed: int = 1) -> History:
    """Return the history of a provider, with slices of one hour."""
    history = History()
    numbers = [history.numbering.lines.find(line) for line in lines(networks)]
    random = np.random.default_rng(seed)
    customers = max(1, round(0.95 * networks))
    is_inside = np.arange(networks) < customers
    base_s = np.where(
        is_inside, random.lognormal(np.log(0.012), 0.5, networks), random.lognormal(np.log(0.03), 0.6, networks)
    )
    sigma = random.uniform(0.5, 1.1, networks)
    weight = random.lognormal(0, 1, networks)
    peak_bps = np.where(is_inside, 3e6, 80e6) * weight / np.exp(0.5)
    is_bloated = np.arange(networks) < customers_with_bufferbloat(customers)
    peak_bps[is_bloated] = np.maximum(peak_bps[is_bloated], 4e6)
    is_lossy = is_inside & (np.arange(networks) % len(TOWERS) == TOWERS.index("Hill"))
    is_moved = ~is_inside & (np.arange(networks) % 2 == 0)
    coverage = np.clip(random.normal(0.87, 0.08, networks), 0.02, 1)
    for hour in range(hours):
        if hour == 15 * DAY_HOURS + 9:
            history.notes.append("The agent was restarted; no counts of one hour exist.")
            continue
        load = _load(hour) * random.lognormal(0, 0.35, networks)
        median_s = base_s * (1 + 0.2 * load)
        median_s[is_bloated] += _BLOATED_S * np.clip(load[is_bloated] - 0.5, 0, 1)
        if hour // DAY_HOURS == 10:
            median_s[is_moved] += _DETOUR_S
        octets = peak_bps * load * 3600 / 8
        loss = np.where(is_lossy, _TOWER_LOSS, _LOSS) * random.uniform(0.5, 1.5, networks)
        delays = _delay_shares(0.8 * base_s, median_s, sigma)
        history.add(_slice(history, hour, np.array(numbers), octets, delays, loss, coverage, random))
    return history


def _load(hour: int) -> float:
    """Return the load of an hour of the day: low at 5 o'clock, high at 21 o'clock."""
    return float(0.55 - 0.45 * np.cos((hour % DAY_HOURS - 5) / DAY_HOURS * 2 * np.pi))


def _slice(
    history: History,
    hour: int,
    numbers: npt.NDArray[np.int64],
    octets: Floats,
    shares: Floats,
    loss: Floats,
    coverage: Floats,
    random: np.random.Generator,
) -> Slice:
    networks = len(octets)
    packets = octets / 900
    tcp = 0.72 * packets
    find = history.numbering.columns.find
    values: dict[ColumnKey, Floats] = {}

    def put(metric: str, numbers_of_lines: Floats, **attributes: str) -> None:
        key = ColumnKey(metric, tuple(sorted(attributes.items())))
        find(key)
        values[key] = np.concatenate([numbers_of_lines, [0, 0]])
        if metric in (metrics.SUBNET_PACKETS.name, metrics.SUBNET_BYTES.name):
            # The two aggregates have no attributes.
            find(ColumnKey(metric))
            sums = values.setdefault(ColumnKey(metric), np.zeros(networks + 2))
            sums[-2:] += numbers_of_lines.sum() * np.array([0.01, 0.001])

    for way, share in (("to", 0.8), ("from", 0.2)):
        classes = {"tcp_timestamp": tcp * coverage, "tcp_other": tcp * (1 - coverage), "udp": 0.27 * packets}
        for name, count in {**classes, "icmp": 0.01 * packets}.items():
            put(metrics.SUBNET_PACKETS.name, count * share, direction=way, traffic_class=name)
            put(metrics.SUBNET_BYTES.name, count * share * 900, direction=way, traffic_class=name)
        put(metrics.RETRANSMITTED.name, tcp * loss * share, direction=way)
        put(metrics.OUT_OF_ORDER.name, tcp * loss * 0.3 * share, direction=way)
        put(metrics.ZERO_WINDOW.name, tcp * 1e-5 * share, direction=way)
        for codepoint, part in (("ect_0", 0.010), ("ect_1", 0.002), ("ce", 0.0001)):
            put(metrics.SUBNET_ECN.name, packets * part * share, direction=way, ecn=codepoint)
    put(metrics.OPENED.name, packets / 400, opening="syn")
    put(metrics.CLOSED.name, packets / 410, closing="fin")
    put(metrics.ACTIVE_FLOWS.name, np.maximum(1, packets / 40_000))
    counters = np.zeros((len(numbers), len(history.numbering.columns)), np.uint64)
    for key, column in values.items():
        counters[:, find(key)] = np.round(column)
    begin_ns = BEGIN_NS + hour * HOUR_NS
    rtts = _rtts(history, numbers[:networks], tcp * coverage * 0.02, shares, random)
    agent = _agent(float(packets.sum()), float(rtts.buckets.counts.sum()))
    return Slice(begin_ns, begin_ns + HOUR_NS, numbers, counters, rtts, agent)


def _delay_shares(least_s: Floats, median_s: Floats, sigma: Floats) -> Floats:
    """Return the share of the RTTs in each bucket. An RTT is the sum of a minimum RTT and a log-normal delay in
    queues.
    """
    bounds_s = 2 ** (np.arange(_FIRST, _LAST + 1) / 2**SCALE)
    queued = np.maximum(bounds_s - least_s[:, None], 1e-9) / (median_s - least_s)[:, None]
    # A logistic function approximates the cumulative distribution, and is faster than erf().
    with np.errstate(over="ignore"):
        cumulative = 1 / (1 + np.exp(-1.702 * np.log(queued) / sigma[:, None]))
    return np.diff(cumulative, axis=1)


def _rtts(
    history: History,
    numbers: npt.NDArray[np.int64],
    samples: Floats,
    shares: Floats,
    random: np.random.Generator,
) -> Rtts:
    """Return the RTTs of networks. One in twenty RTTs is measured by a handshake."""
    parts = []
    for name, share in (("tcp_timestamp", 0.95), ("tcp_handshake", 0.05)):
        expected = shares * (samples * share)[:, None]
        counts = np.floor(expected + random.random(expected.shape, np.float32)).astype(np.uint64)
        used = np.flatnonzero(counts.any(axis=1))
        counts = counts[used]
        middles = 2 ** ((np.arange(_FIRST, _LAST) + 0.5) / 2**SCALE)
        sums = counts @ middles
        first = np.argmax(counts > 0, axis=1)
        last = counts.shape[1] - 1 - np.argmax(counts[:, ::-1] > 0, axis=1)
        buckets = SparseHistograms(
            np.full(len(used), _FIRST), starts_of(np.full(len(used), counts.shape[1])), counts.ravel()
        )
        parts.append(
            Rtts(
                numbers[used],
                np.full(len(used), history.numbering.methods.find(name)),
                np.full(len(used), SCALE),
                buckets,
                np.round(sums * 1e9).astype(np.uint64),
                np.round(2 ** ((_FIRST + first + 0.3) / 2**SCALE) * 1e9).astype(np.uint64),
                np.round(2 ** ((_FIRST + last + 0.7) / 2**SCALE) * 1e9).astype(np.uint64),
            )
        )
    return Rtts.joined(parts)


def _agent(packets: float, rtts: float) -> AgentValues:
    def key(metric: str, **attributes: str) -> ColumnKey:
        return ColumnKey(metric, tuple(sorted(attributes.items())))

    values = AgentValues()
    for kind, share in (("tcp", 0.71), ("udp", 0.27), ("icmp", 0.01), ("fragment", 0.002), ("non_ip", 0.008)):
        for direction in ("receive", "transmit"):
            name = metrics.INTERFACE_PACKETS.name
            values[key(name, interface="lan0", direction=direction, kind=kind)] = round(packets * share / 2)
    outcomes = {"begun": 1.31, "measured": 1.0, "superseded": 0.2, "expired": 0.02, "repeated": 0.05, "not_begun": 0.01}
    for outcome, share in outcomes.items():
        values[key(metrics.MEASUREMENTS.name, interface="lan0", outcome=outcome)] = round(rtts * share)
    values[key(metrics.TIMESTAMPS_FAILED.name, interface="lan0", fault="still")] = 3
    values[key(metrics.DUPLICATES.name, interface="lan0")] = 12
    values[key(metrics.UNIDIRECTIONAL.name, interface="lan0", reverse="missing")] = 41
    return values
