# SPDX-License-Identifier: Apache-2.0
"""Fills a collector's maps with thousands of subnets. Each subnet gets as many RTTs as a day of traffic would give.

For each subnet, the program runs on one packet in each direction. These runs create slots, counters and flow table
entries. Each subnet then has about seven data points: a histogram, packets and bytes in each direction, opened flows
and active flows. About 2,000 packets per subnet would be necessary to fill the histogram. So the RTTs are written
directly into the histogram in the map: 40 adjacent buckets at scale 4, with 48 RTTs each on average.
"""

import mmap
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bench.packets import DATA, PAYLOAD, Fields, Packets, put, rows_of
from bench.programs import OURS, Contender
from bench.timed_runs import TimedRuns
from otel_epping.kernel import buckets, libbpf
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.program import Map
from otel_epping.replay.replayer import CAPTURE

Maps = dict[str, Map]
MapValues = npt.NDArray[np.void]

# A minimum or maximum is stored as one number: interval << 36 | value (bpf/histogram.h).
_VALUE_BITS = 36
_AT_ONCE = 20_000
# The number of occupied buckets at the default scale 4, and the mean count of a bucket. At other scales, the occupied
# buckets cover the same range of RTTs.
_OCCUPIED, _MEAN = 40, 48
# An RTT near the middle of each histogram, so that the RTTs of active_subnets.py fall into occupied buckets.
_TYPICAL_NS = 4_000_000


def config_for(subnets: int, scale: int = EppingConfig.scale) -> EppingConfig:
    """Returns a configuration for `subnets` subnets with one flow each.

    The configuration's tables have at least the default sizes.
    """
    default = EppingConfig()
    return EppingConfig(
        max_subnets=max(default.max_subnets, subnets), max_flows=max(default.max_flows, 2 * subnets), scale=scale
    )


def prepare(collector: EppingCollector, subnets: int) -> None:
    """Fills the maps of a collector with `subnets` subnets: one subnet for all clients, and one for each server."""
    collector.attachments.register(CAPTURE)
    send(collector.program.entry_points, subnets - 1, 0)
    fill(collector.program.maps, subnets, collector.config.scale)


def send(entry_points: dict[str, int], servers: int, turn: int) -> None:
    """Runs the program on a packet to each server and on a packet from each server. Each server has its own subnet."""
    contender = Contender(OURS, {"egress": entry_points["epping_egress"], "ingress": entry_points["epping_ingress"]})
    for first in range(0, servers, _AT_ONCE):
        numbers = np.arange(first, min(servers, first + _AT_ONCE))
        for packets in segments_and_replies(numbers, servers, turn):
            TimedRuns(contender, packets).run()


def segments_and_replies(numbers: npt.NDArray[np.int64], servers: int, turn: int) -> Iterator[Packets]:
    """Yields a segment of each flow, and then replies that echo the segments' TSval. Each `turn` has a new TSval."""
    fields = Fields.of(4)
    for egress in (True, False):
        rows = rows_of(DATA, numbers, servers, egress)
        put(rows, fields.tsval, 1000 + turn)
        put(rows, fields.tsecr, 1000 + turn - egress)
        put(rows, fields.sequence, 1 + PAYLOAD * turn)
        put(rows, fields.acknowledgement, 1 + PAYLOAD * (turn + (not egress)))
        yield Packets.one_way(rows, egress)


def records(array: Map, rows: int) -> MapValues:
    """Maps an array map into memory. Returns rows 1 to `rows - 1`. A write to the returned array changes the map."""
    dtype = Array("", array).dtype
    return np.frombuffer(mmap.mmap(array.fd, rows * dtype.itemsize), dtype, rows)[1:]


def fill(maps: Maps, subnets: int, scale: int) -> None:
    """Adds the RTTs of a day to the histograms of the first `subnets` slots.

    Writes the fields in the same order as the program (bpf/histogram.h), because the agent may read them meanwhile.
    """
    chance = np.random.default_rng(1)
    histograms = records(maps["histograms"], subnets + 1)
    control = libbpf.map_lookup(maps["control"].fd, bytes(4), 8)
    assert control
    interval = int.from_bytes(control[4:], "little")
    for first in range(0, subnets, _AT_ONCE):
        _fill(histograms[first : first + _AT_ONCE], scale, interval, chance)


def _fill(histograms: MapValues, scale: int, interval: int, chance: np.random.Generator) -> None:
    count, rows = buckets.bucket_count(scale), len(histograms)
    occupied = max(1, (_OCCUPIED << scale) >> EppingConfig.scale)
    edges_ns = np.array([buckets.edge_ns(buckets.first_index(scale) + i, scale) for i in range(count + 1)], np.uint64)
    typical = buckets.index_of(_TYPICAL_NS, scale) - buckets.first_index(scale)
    first = typical - chance.integers(occupied // 4, occupied - occupied // 4, rows)
    columns = first[:, None] + np.arange(occupied)
    shape = np.exp(-(((np.arange(occupied) - occupied / 3) / (occupied / 4)) ** 2))
    mean = _MEAN * _OCCUPIED / occupied
    counts = 1 + chance.poisson((mean - 1) * shape / shape.mean(), (rows, occupied)).astype(np.uint64)
    total = counts.sum(1)
    histograms["began"] += total
    histograms["buckets"][np.arange(rows)[:, None], columns] += counts.astype(np.uint32)
    histograms["sum_ns"] += (edges_ns[columns + 1] * counts).sum(1)
    tag = np.uint64(interval << _VALUE_BITS)
    least = np.uint64((1 << _VALUE_BITS) - 1) - (edges_ns[first] + np.uint64(1))
    for name, value in (("min_word", least), ("max_word", edges_ns[first + occupied])):
        words = histograms[name][:, interval & 1]
        words[:] = np.maximum(words, tag | value)
    histograms["ended"] += total


def add_rtts(maps: Maps, subnets: int) -> None:
    """Adds one RTT to the fullest bucket of each histogram, so that a reader must read all histograms again."""
    histograms = records(maps["histograms"], subnets + 1)
    fullest = histograms["buckets"].argmax(1)
    histograms["began"] += 1
    histograms["buckets"][np.arange(subnets), fullest] += 1
    histograms["sum_ns"] += 1000
    histograms["ended"] += 1
