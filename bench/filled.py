# SPDX-License-Identifier: Apache-2.0
"""A collector's maps, filled as after a day of traffic: thousands of subnets, each with a histogram that has a shape.

Slots, counters and flows are made by packets through the program: one each way for every subnet, which gives about
seven points: a histogram, packets and bytes each way, flows that opened and that are active. To fill a histogram by
packets would take two thousand of them, so histograms are written into the map, in the program's own layout: 40
neighbouring buckets at scale 4, of 48 RTTs on average.
"""

import mmap
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from bench.packets import DATA, PAYLOAD, Fields, Packets, put, rows_of
from bench.programs import OURS, Contender
from bench.runs import Course
from otel_epping.kernel import buckets, libbpf
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.program import Map
from otel_epping.replay.replayer import CAPTURE

Maps = dict[str, Map]
Records = npt.NDArray[np.void]

# bpf/histogram.h: an extreme's word is interval << 36 | value.
_VALUE_BITS = 36
_AT_ONCE = 20_000
# At scale 4, the default; at another, as wide in time.
_OCCUPIED, _MEAN = 40, 48
# In the middle of each histogram, roughly: RTTs of crowd.py are of that size, and don't make it wider.
_TYPICAL_NS = 4_000_000


def room_for(subnets: int, scale: int = EppingConfig.scale) -> EppingConfig:
    """The configuration that has room for as many, and for a flow of each: the default one, or more."""
    default = EppingConfig()
    return EppingConfig(
        max_subnets=max(default.max_subnets, subnets), max_flows=max(default.max_flows, 2 * subnets), scale=scale
    )


def prepare(collector: EppingCollector, subnets: int) -> None:
    """Has a collector count for so many subnets: the clients' one and the servers'."""
    collector.attachments.register(CAPTURE)
    speak(collector.program.entry_points, subnets - 1, 0)
    fill(collector.program.maps, subnets, collector.config.scale)


def speak(entry_points: dict[str, int], servers: int, turn: int) -> None:
    """A packet to each of so many servers' subnets, and one from each, through the program."""
    contender = Contender(OURS, {"egress": entry_points["epping_egress"], "ingress": entry_points["epping_ingress"]})
    for first in range(0, servers, _AT_ONCE):
        numbers = np.arange(first, min(servers, first + _AT_ONCE))
        for packets in exchange(numbers, servers, turn):
            Course(contender, packets).run()


def exchange(numbers: npt.NDArray[np.int64], servers: int, turn: int) -> Iterator[Packets]:
    """A segment of each of these flows, with a new TSval in each turn, and then their answers, which echo it."""
    fields = Fields.of(4)
    for egress in (True, False):
        rows = rows_of(DATA, numbers, servers, egress)
        put(rows, fields.tsval, 1000 + turn)
        put(rows, fields.tsecr, 1000 + turn - egress)
        put(rows, fields.sequence, 1 + PAYLOAD * turn)
        put(rows, fields.acknowledgement, 1 + PAYLOAD * (turn + (not egress)))
        yield Packets.alike(rows, egress)


def records(array: Map, rows: int) -> Records:
    """The first rows of an array map, but for row 0, as the program sees them: what is written there is there."""
    dtype = Array("", array).dtype
    return np.frombuffer(mmap.mmap(array.fd, rows * dtype.itemsize), dtype, rows)[1:]


def fill(maps: Maps, subnets: int, scale: int) -> None:
    """Adds a day's RTTs to the histograms of so many slots, from the first on.

    Others may be reading: it is done in the order that the program keeps (bpf/histogram.h).
    """
    chance = np.random.default_rng(1)
    histograms = records(maps["histograms"], subnets + 1)
    control = libbpf.map_lookup(maps["control"].fd, bytes(4), 8)
    assert control
    interval = int.from_bytes(control[4:], "little")
    for first in range(0, subnets, _AT_ONCE):
        _fill(histograms[first : first + _AT_ONCE], scale, interval, chance)


def _fill(histograms: Records, scale: int, interval: int, chance: np.random.Generator) -> None:
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


def touch(maps: Maps, subnets: int) -> None:
    """Adds one more RTT to each of these histograms, in a bucket that has some: a reader must look at each again."""
    histograms = records(maps["histograms"], subnets + 1)
    fullest = histograms["buckets"].argmax(1)
    histograms["began"] += 1
    histograms["buckets"][np.arange(subnets), fullest] += 1
    histograms["sum_ns"] += 1000
    histograms["ended"] += 1
