# SPDX-License-Identifier: Apache-2.0
"""Makes slices of a provider with many networks, without a kernel program."""

import ipaddress

import numpy as np

from otel_epping.history.columns import ColumnKey, Numbering
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.slice import Rtts, Slice
from otel_epping.kernel.sparse_histograms import SparseHistograms, starts_of
from otel_epping.otel import agent_metrics, metric_table
from otel_epping.otel.metric import Metric

SECOND = 10**9
START_NS = 1_800_000_000 * SECOND
SCALE = 4
_COLUMNS = [
    (metric_table.SUBNET_BYTES, {"direction": way, "traffic_class": kind})
    for way in ("from", "to")
    for kind in ("tcp_timestamp", "tcp_other", "udp")
] + [
    (metric_table.SUBNET_PACKETS, {"direction": way, "traffic_class": kind})
    for way in ("from", "to")
    for kind in ("tcp_timestamp", "tcp_other", "udp")
]
_MORE = [(metric_table.RETRANSMITTED, {"direction": way}) for way in ("from", "to")]
_FLOWS: tuple[Metric, dict[str, str]] = (metric_table.ACTIVE_FLOWS, {})


class Provider:
    """A provider with `networks` networks. Network 3 is the worst: its RTTs vary between 20 ms and 400 ms."""

    WORST = 3

    def __init__(self, numbering: Numbering, networks: int, seed: int = 1) -> None:
        self.numbering, self.networks = numbering, networks
        self.now_ns = START_NS
        self._random = np.random.default_rng(seed)
        self._shared = [numbering.lines.find(Line(OVERFLOW)), numbering.lines.find(Line(UNANSWERED))]
        self._lines = np.array([numbering.lines.find(self.line(number)) for number in range(networks)], np.int64)
        self._columns = [
            numbering.columns.find(ColumnKey(metric.name, tuple(sorted(attributes.items()))))
            for metric, attributes in (*_COLUMNS, *_MORE, _FLOWS)
        ]
        self._method = numbering.methods.find("tcp_timestamp")
        self._least_s = self._random.lognormal(-4, 0.8, networks)
        self._least_s[self.WORST : self.WORST + 1] = 0.02

    @staticmethod
    def line(number: int) -> Line:
        """Return the line of a network. Each third network has a name and a tag."""
        subnet = str(ipaddress.ip_network((0x14000000 + number * 256, 24)))
        line = Line(
            as_number=64500 + number % 50,
            as_organization=f"Provider {number % 50}",
            country="DE",
            interface="wan0",
            side="external",
        )
        if number % 3 == 0:
            tags = (("site", f"Tower {number % 7}"),)
            return line._replace(name=f"Customer {number}", tags=tags)
        return line._replace(subnet=subnet, network_type="ipv4")

    def slice(self, seconds: float = 2.0, samples: int = 30, active: int | None = None) -> Slice:
        """Return a slice in which the first `active` networks have about `samples` RTTs each."""
        count = self.networks if active is None else active
        begin_ns, self.now_ns = self.now_ns, self.now_ns + round(seconds * SECOND)
        random = self._random
        packets = random.integers(50, 500, (count, len(_COLUMNS) // 2))
        counters = np.zeros((count + 2, len(self.numbering.columns)), np.uint64)
        columns = self._columns
        half = len(_COLUMNS) // 2
        counters[:count, columns[:half]] = packets * 900
        counters[:count, columns[half : 2 * half]] = packets
        counters[:count, columns[2 * half : 2 * half + 2]] = random.integers(0, 3, (count, 2))
        counters[:count, columns[-1]] = 5
        counters[count, columns[half]] = 10
        counters[count + 1, columns[half]] = 20
        agent = {
            ColumnKey(agent_metrics.SUBNET_UNANSWERED.name): 7.0,
            ColumnKey(metric_table.INTERFACE_PACKETS.name, (("direction", "receive"), ("kind", "tcp"))): 1000.0,
        }
        lines = np.concatenate([self._lines[:count], self._shared])
        return Slice(begin_ns, self.now_ns, lines, counters, self._rtts(count, samples), agent)

    def _rtts(self, count: int, samples: int) -> Rtts:
        random = self._random
        spread = np.full(count, 0.08)
        spread[self.WORST : self.WORST + 1] = 1.5
        times_s = self._least_s[:count, None] * (1 + np.abs(random.normal(0, spread[:, None], (count, samples))))
        index = np.floor(np.log2(times_s) * 2**SCALE).astype(np.int64)
        first = index.min(axis=1)
        lengths = index.max(axis=1) - first + 1
        starts = starts_of(lengths)
        places = (starts[:-1] - first)[:, None] + index
        counts = np.bincount(places.ravel(), minlength=int(starts[-1])).astype(np.uint64)
        ns = (times_s * 1e9).astype(np.uint64)
        return Rtts(
            self._lines[:count],
            np.full(count, self._method),
            np.full(count, SCALE),
            SparseHistograms(first, starts, counts),
            ns.sum(axis=1),
            ns.min(axis=1),
            ns.max(axis=1),
        )
