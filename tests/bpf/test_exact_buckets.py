# SPDX-License-Identifier: Apache-2.0
"""Tests that every RTT is counted in the bucket that an OpenTelemetry SDK would choose.

Sums, minima and maxima must be exact to the nanosecond. The expected buckets come from the SDK's mapping. The RTTs come
from packets that are fed to the kernel program.
"""

import struct
from collections.abc import Callable
from ipaddress import ip_network

import numpy as np
import pytest
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping import Mapping
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.exponent_mapping import ExponentMapping
from opentelemetry.sdk.metrics._internal.exponential_histogram.mapping.logarithm_mapping import LogarithmMapping

from otel_epping.kernel import buckets, libbpf
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.histograms import BLOCK, block_numbers
from otel_epping.kernel.read.min_max import NO_MIN_NS
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, Reading
from tests.support.prog_test_run import EGRESS, EXTERNAL, INGRESS, Bench, Feeder
from tests.support.readings import buckets_of

pytestmark = pytest.mark.parallel


LEAST, GREATEST = 1_000, 64_000_000_000
RANDOM_VALUES = 100_000
AROUND_AN_EDGE = range(-8, 9)


def config(scale: int) -> EppingConfig:
    return EppingConfig(
        packet_clock=True, scale=scale, sample_interval_ns=0, max_age_ns=GREATEST, max_subnets=64, max_flows=4096
    )


@pytest.fixture
def bench(bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(config(4))


def sdk_mapping(scale: int) -> Mapping:
    return LogarithmMapping(scale) if scale > 0 else ExponentMapping(scale)


def edges(scale: int) -> list[int]:
    """Returns all values within 8 ns of a boundary 2^(i/2^scale) s, from 1 us to 64 s.

    The formula is written here a second time, so that the test does not depend on `buckets`.
    """
    per_octave = 2**scale
    values = set()
    for index in range(-20 * per_octave, 6 * per_octave + 1):
        edge = round(2 ** (index / per_octave) * 1e9)
        values |= {edge + offset for offset in AROUND_AN_EDGE}
    return sorted(value for value in values | {LEAST, GREATEST} if LEAST <= value <= GREATEST)


def values_of(scale: int) -> list[int]:
    random = np.random.default_rng(20_000 + scale)
    drawn = np.exp(random.uniform(np.log(LEAST), np.log(GREATEST), RANDOM_VALUES)).astype(np.int64)
    return edges(scale) + [int(value) for value in np.clip(drawn, LEAST, GREATEST)]


class Recorder:
    """Makes the program count RTTs of one flow in a fast loop.

    The loop uses the same two packets again and again. Only the timestamps and the arrival times of the packets change.
    """

    def __init__(self, bench: Bench) -> None:
        flow = bench.flow().begun(0)
        origin, reply = flow.frame(0, "PA", 0x01020304, 0, b"x"), flow.frame(1, "A", 0, 0x05060708, b"")
        self._tsval_at, self._tsecr_at = origin.index(b"\x01\x02\x03\x04"), reply.index(b"\x05\x06\x07\x08")
        self._origin = Feeder(bench.collector.program.entry_points[EGRESS])
        self._origin.set(origin)
        self._reply = Feeder(bench.collector.program.entry_points[INGRESS])
        self._reply.set(reply)
        self._tsval, self._now_ns = 0, flow.start_ns
        # The reply creates the slot of its subnet before the first RTT.
        self._reply.run(self._now_ns)
        slot = bench.slot_of(ip_network(f"{flow.addresses[1]}/{bench.config.prefix_v4}", strict=False), EXTERNAL)
        assert slot
        self._bench, self.slot = bench, slot

    @property
    def row(self) -> int:
        """The row of the histogram; 0 before the first RTT."""
        return self._bench.histogram_of(self.slot)

    def record(self, rtt_ns: int) -> None:
        self._tsval += 1
        self._now_ns += 1_000_000
        struct.pack_into(">I", self._origin.data, self._tsval_at, self._tsval)
        struct.pack_into(">I", self._reply.data, self._tsecr_at, self._tsval)
        self._origin.run(self._now_ns)
        self._now_ns += rtt_ns
        self._reply.run(self._now_ns)


@pytest.mark.parametrize("scale", buckets.SCALES)
def test_the_kernel_counts_every_value_into_the_bucket_of_the_sdk(scale: int) -> None:
    bench = Bench(config(scale))
    recorder = Recorder(bench)
    recorder.record(LEAST)
    places, blocks = memoryview(bench.histograms["blocks"][recorder.row]), memoryview(bench.blocks["buckets"])
    counts = bench.buckets_of(recorder.row).tolist()
    mapping, first = sdk_mapping(scale), buckets.first_index(scale)
    values = values_of(scale)
    wrong = []
    for value in values:
        bucket = mapping.map_to_index(value / 1e9) - first
        recorder.record(value)
        counts[bucket] += 1
        place, offset = divmod(bucket, BLOCK)
        if blocks[places[place // 2] >> 32 * (place % 2) & 0xFFFFFFFF, offset] != counts[bucket]:
            wrong.append(value)
            counts = bench.buckets_of(recorder.row).tolist()
    assert not wrong, f"{len(wrong)} of {len(values)} values are not in the bucket that the SDK chooses: {wrong[:10]}"
    assert bench.buckets_of(recorder.row).tolist() == counts, f"one of {len(values)} values was counted twice"
    histogram = bench.histograms[recorder.row]
    assert (histogram["ended"], histogram["sum_ns"]) == (len(values) + 1, sum(values) + LEAST)
    bench.close()


@pytest.mark.parametrize("scale", buckets.SCALES)
def test_bucket_edges_equal_those_of_the_sdk(scale: int) -> None:
    mapping, first = sdk_mapping(scale), buckets.first_index(scale)
    last = first + buckets.bucket_count(scale) - 1
    assert (first, last) == tuple(mapping.map_to_index(value / 1e9) for value in (LEAST, GREATEST))
    for index in range(first + 1, last + 1):
        edge = buckets.edge_ns(index, scale)
        assert (mapping.map_to_index(edge / 1e9), mapping.map_to_index((edge + 1) / 1e9)) == (index - 1, index)
        assert (buckets.index_of(edge, scale), buckets.index_of(edge + 1, scale)) == (index - 1, index)


@pytest.mark.parametrize("scale", buckets.SCALES)
def test_cells_lead_to_the_buckets_of_the_sdk(scale: int) -> None:
    """The test repeats the lookup of bpf/histogram.h in Python."""
    cells = buckets.cells(scale).tolist()
    mapping, first = sdk_mapping(scale), buckets.first_index(scale)
    for value in edges(scale):
        octave = value.bit_length() - 1
        fraction = (value >> (octave - scale - 1)) - (2 << scale)
        edge, bucket = cells[((octave - 9) << (scale + 1)) + fraction]
        assert bucket + (value > edge) == mapping.map_to_index(value / 1e9) - first, value


def test_shorter_rtts_are_clamped_and_counted(bench: Bench) -> None:
    recorder = Recorder(bench)
    with bench.counting() as counted:
        for value in (0, 1, 999):
            recorder.record(value)
    assert counted["rtt_clamped 0"] == 3
    with bench.counting() as counted:
        recorder.record(LEAST)
        recorder.record(LEAST + 1)
    assert (counted["rtt_clamped 0"], counted["rtt_clamped 1"]) == (0, 0)
    histogram = bench.histograms[recorder.row]
    assert bench.buckets_of(recorder.row)[0] == histogram["ended"] == 5
    assert histogram["sum_ns"] == 5 * LEAST + 1


def test_longer_rtts_are_clamped_and_counted() -> None:
    bench = Bench(EppingConfig(packet_clock=True, sample_interval_ns=0, max_age_ns=2 * GREATEST, max_subnets=64))
    recorder = Recorder(bench)
    with bench.counting() as counted:
        recorder.record(GREATEST)
        assert bench.counters()["rtt_clamped 1"] == 0
        recorder.record(GREATEST + 1)
        recorder.record(2 * GREATEST)
    assert (counted["rtt_clamped 0"], counted["rtt_clamped 1"]) == (0, 2)
    histogram = bench.histograms[recorder.row]
    assert bench.buckets_of(recorder.row)[-1] == histogram["ended"] == 3
    assert histogram["sum_ns"] == 3 * GREATEST
    bench.close()


def test_sums_and_buckets_of_a_reading_are_exact(bench: Bench) -> None:
    recorder, reader = Recorder(bench), bench.collector.reader()
    values = np.random.default_rng(4).integers(LEAST, 10**9, 1000).tolist()
    mapping, first = sdk_mapping(4), buckets.first_index(4)
    expected = np.zeros(buckets.bucket_count(4), np.uint64)
    for done, value in enumerate(values, 1):
        recorder.record(value)
        expected[mapping.map_to_index(value / 1e9) - first] += 1
        if done % 100 == 0:
            reading = reader.read()
            assert int(reading.rtts.sum_ns[recorder.row]) == sum(values[:done])
            assert (buckets_of(reading, recorder.row, len(expected)) == expected).all()


def extremes(reading: Reading, *recorders: Recorder) -> list[tuple[int, int]]:
    """Returns the minimum and the maximum of each recorder's RTTs."""
    rtts = reading.rtts
    return [(int(rtts.min_ns[one.row]), int(rtts.max_ns[one.row])) for one in recorders]


def test_minimum_and_maximum_of_an_interval(bench: Bench) -> None:
    recorder, reader = Recorder(bench), bench.collector.reader()
    assert recorder.row == OVERFLOW_HISTOGRAM
    for values in ([5_000_007], [3, 2_000_000], [9_000_001, 4_000_003, 70_000_009], [LEAST], [GREATEST], []):
        for value in values:
            recorder.record(value)
        seen = [max(value, LEAST) for value in values]
        assert extremes(reader.read(), recorder) == [(min(seen, default=NO_MIN_NS), max(seen, default=0))]


def test_two_readers_have_separate_minima_and_maxima(bench: Bench) -> None:
    """Each reader gets the minimum and the maximum of the RTTs that were recorded since its own last reading. The order
    of RTTs and readings is random."""
    recorder = Recorder(bench)
    readers = [bench.collector.reader(), bench.collector.reader()]
    random = np.random.default_rng(5)
    recorded: list[list[int]] = [[], []]
    for _ in range(2000):
        what = int(random.integers(0, 4))
        if what >= len(readers):
            value = int(random.integers(LEAST, GREATEST))
            recorder.record(value)
            for values in recorded:
                values.append(value)
            continue
        expected = (min(recorded[what], default=NO_MIN_NS), max(recorded[what], default=0))
        assert extremes(readers[what].read(), recorder) == [expected]
        recorded[what].clear()


def test_each_slot_has_its_own_minimum_and_maximum(bench: Bench) -> None:
    one, other, reader = Recorder(bench), Recorder(bench), bench.collector.reader()
    reader.read()
    one.record(7_000_000)
    other.record(9_000_000)
    one.record(8_000_000)
    assert extremes(reader.read(), one, other) == [(7_000_000, 8_000_000), (9_000_000, 9_000_000)]


def test_a_bucket_that_wraps_around_is_carried_over(bench: Bench) -> None:
    recorder, reader = Recorder(bench), bench.collector.reader()
    bucket = sdk_mapping(4).map_to_index(0.001) - buckets.first_index(4)
    total = 0

    def set_kernel_bucket(value: int) -> None:
        """Sets the bucket to `value`, as if the program had counted `value` RTTs in the bucket."""
        histogram = bench.histograms[recorder.row].copy()
        number = int(block_numbers(histogram[None])[0][bucket // BLOCK])
        block = bench.blocks[number].copy()
        counted = (value - int(block["buckets"][bucket % BLOCK])) % 2**32
        histogram["began"] += counted
        histogram["ended"] += counted
        block["buckets"][bucket % BLOCK] = value
        for name, row, record in (("histograms", recorder.row, histogram), ("blocks", number, block)):
            fd = bench.collector.program.maps[name].fd
            libbpf.map_update(fd, np.uint32(row).tobytes(), record.tobytes())

    recorder.record(1_000_000)
    total += 1
    reader.read()
    for _ in range(2):
        total += (2**32 - 3 - int(bench.buckets_of(recorder.row)[bucket])) % 2**32
        set_kernel_bucket(2**32 - 3)
        assert int(buckets_of(reader.read(), recorder.row, buckets.bucket_count(4))[bucket]) == total
        for _ in range(5):
            recorder.record(1_000_000)
        assert bench.buckets_of(recorder.row)[bucket] == 2
        total += 5
        assert int(buckets_of(reader.read(), recorder.row, buckets.bucket_count(4))[bucket]) == total
        assert buckets_of(reader.read(), recorder.row, buckets.bucket_count(4)).sum() == total
