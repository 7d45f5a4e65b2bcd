# SPDX-License-Identifier: Apache-2.0
"""Fills a collector's maps with thousands of subnets. Each subnet gets as many RTTs as a day of traffic would give.

For each subnet, the program runs on three packets in each direction. These runs create slots, counters and flow table
entries. The replies complete RTT samples, so all subnets have answered. Each subnet then has about seven data points:
a histogram, packets and bytes in each direction, opened flows and active flows. About 2,000 packets per subnet would be
necessary to fill the histogram. So the RTTs are written directly into the histogram in the map: 40 adjacent buckets at
scale 4, with 48 RTTs each on average.
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
from otel_epping.kernel.read import claims
from otel_epping.kernel.read.histograms import BLOCK, block_numbers
from otel_epping.replay.replayer import CAPTURE

Maps = dict[str, Map]
MapValues = npt.NDArray[np.void]

# A minimum or maximum is stored as one number: interval << 36 | value (bpf/histogram.h).
_VALUE_BITS = 36
_AT_ONCE = 10_000
# The share of subnets that must answer. A few flows get no entry in the flow table, because their set is full.
ENOUGH = 0.99
# The number of occupied buckets at the default scale 4, and the mean count of a bucket. At other scales, the occupied
# buckets cover the same range of RTTs.
_OCCUPIED, _MEAN = 40, 48
# The number of segments and replies after which all subnets have answered. The first TSval of a flow starts no RTT
# sample. A segment of the client answers the previous reply.
TURNS = 3
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
    send(collector.program.entry_points, subnets - 1)
    fill(collector.program.maps, collector.config.scale)


def send(entry_points: dict[str, int], servers: int) -> None:
    """Runs the program on packets to each server and on packets from each server. Each server has its own subnet."""
    contender = Contender(OURS, {"egress": entry_points["epping_egress"], "ingress": entry_points["epping_ingress"]})
    for first in range(0, servers, _AT_ONCE):
        numbers = np.arange(first, min(servers, first + _AT_ONCE))
        for turn in range(TURNS):
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
    return _all_records(array, rows)[1:]


def _all_records(array: Map, rows: int) -> MapValues:
    dtype = Array("", array).dtype
    return np.frombuffer(mmap.mmap(array.fd, rows * dtype.itemsize), dtype, rows)


def _histograms(maps: Maps) -> MapValues:
    """Maps the histograms that are in use, without the overflow histogram.

    Works only if no histogram has been freed.
    """
    used = _all_records(maps["claims"], claims.HISTOGRAMS + 1)
    return records(maps["histograms"], int(used["fresh"][claims.HISTOGRAMS]) + 1)


def fill(maps: Maps, scale: int) -> None:
    """Adds the RTTs of a day to all histograms that are in use.

    Writes the fields in the same order as the program (bpf/histogram.h), because the agent may read them meanwhile. The
    program must not count RTTs meanwhile.
    """
    chance = np.random.default_rng(1)
    histograms = _histograms(maps)
    blocks, used = (_all_records(maps[name], Array("", maps[name]).length) for name in ("blocks", "claims"))
    control = libbpf.map_lookup(maps["control"].fd, bytes(4), 8)
    assert control
    interval = int.from_bytes(control[4:], "little")
    for first in range(0, len(histograms), _AT_ONCE):
        _fill(histograms[first : first + _AT_ONCE], blocks["buckets"], used[claims.BLOCKS :], scale, interval, chance)


def _fill(
    histograms: MapValues,
    blocks: npt.NDArray[np.uint32],
    used: MapValues,
    scale: int,
    interval: int,
    chance: np.random.Generator,
) -> None:
    """Adds RTTs to histograms.

    blocks  the buckets of all blocks
    used    the row of `claims` that counts the blocks, and all later rows
    """
    count, rows = buckets.bucket_count(scale), len(histograms)
    occupied = max(1, (_OCCUPIED << scale) >> EppingConfig.scale)
    edges_ns = np.array([buckets.edge_ns(buckets.first_index(scale) + i, scale) for i in range(count + 1)], np.uint64)
    typical = buckets.index_of(_TYPICAL_NS, scale) - buckets.first_index(scale)
    first = typical - chance.integers(occupied // 4, occupied - occupied // 4, rows)
    columns = first[:, None] + np.arange(occupied)
    shape = np.exp(-(((np.arange(occupied) - occupied / 3) / (occupied / 4)) ** 2))
    mean = _MEAN * _OCCUPIED / occupied
    counts = 1 + chance.poisson((mean - 1) * shape / shape.mean(), (rows, occupied)).astype(np.uint64)
    numbers = _claim_blocks(histograms, columns // BLOCK, used)
    total = counts.sum(1)
    histograms["began"] += total
    blocks[np.take_along_axis(numbers, columns // BLOCK, 1), columns % BLOCK] += counts.astype(np.uint32)
    histograms["sum_ns"] += (edges_ns[columns + 1] * counts).sum(1)
    tag = np.uint64(interval << _VALUE_BITS)
    least = np.uint64((1 << _VALUE_BITS) - 1) - (edges_ns[first] + np.uint64(1))
    for name, value in (("min_word", least), ("max_word", edges_ns[first + occupied])):
        words = histograms[name][:, interval & 1]
        words[:] = np.maximum(words, tag | value)
    histograms["ended"] += total


def _claim_blocks(histograms: MapValues, places: npt.NDArray[np.int64], used: MapValues) -> npt.NDArray[np.int64]:
    """Claims the blocks that are missing at the given places of each histogram. `places` has the shape (rows, n).

    Returns the numbers of all blocks in the same form as block_numbers().
    """
    numbers = block_numbers(histograms).copy()
    is_missing = np.zeros(numbers.shape, np.bool_)
    np.put_along_axis(is_missing, places, True, 1)
    is_missing &= numbers == 0
    missing = int(is_missing.sum())
    numbers[is_missing] = 1 + int(used["fresh"][0]) + np.arange(missing)
    used["fresh"][0] += np.uint64(missing)
    used["claimed"][0] += np.uint32(missing)
    pairs = numbers.astype(np.uint64)
    histograms["blocks"] = pairs[:, ::2] | pairs[:, 1::2] << np.uint64(32)
    histograms["blocks_used"] = (numbers != 0).sum(1)
    return numbers


def add_rtts(maps: Maps) -> None:
    """Adds one RTT to each histogram in use, so that a reader must read all histograms again.

    The RTT is in the fullest bucket of the histogram's second block, or of its only block.
    """
    histograms = _histograms(maps)
    blocks = _all_records(maps["blocks"], Array("", maps["blocks"]).length)["buckets"]
    numbers = block_numbers(histograms)
    second = np.minimum((numbers != 0).argmax(1) + 1, numbers.shape[1] - 1)
    chosen = numbers[np.arange(len(numbers)), second]
    chosen = np.where(chosen == 0, numbers.max(1), chosen)
    histograms["began"] += 1
    blocks[chosen, blocks[chosen].argmax(1)] += 1
    histograms["sum_ns"] += 1000
    histograms["ended"] += 1
