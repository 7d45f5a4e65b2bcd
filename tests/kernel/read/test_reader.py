# SPDX-License-Identifier: Apache-2.0
"""Tests that a reading has all counts of the maps, although the reader reads only buckets known to be in use."""

import threading
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from otel_epping.kernel import buckets, libbpf, map_array
from otel_epping.kernel.arrays import Counts, as_matrix
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.histograms import BLOCK, HistogramReader, block_numbers
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.read.subnet_counters import SubnetCounters
from otel_epping.kernel.reading import OVERFLOW_HISTOGRAM, Reading
from otel_epping.kernel.sparse_histograms import SparseHistograms
from otel_epping.series.details import DetailsNumbers
from otel_epping.series.projection import SeriesReading
from otel_epping.series.temporality import TemporalityTracker, Unsent
from tests.support.prog_test_run import EXTERNAL, Bench
from tests.support.readings import dense
from tests.support.recorder import Conversation

pytestmark = pytest.mark.parallel


LEAST, GREATEST = buckets.RTT_MIN_NS, buckets.RTT_MAX_NS
MS = 1_000_000
# If the number of buckets at each of these scales is divided by the size of a block, the remainders differ. One
# remainder is zero.
SCALES = (1, 2, 4, 5)


@pytest.fixture(params=SCALES)
def bench_of_scale(request: pytest.FixtureRequest, bench_of: Callable[[EppingConfig], Bench]) -> Bench:
    return bench_of(
        EppingConfig(packet_clock=True, scale=request.param, sample_interval_ns=0, max_age_ns=GREATEST, max_subnets=256)
    )


@pytest.fixture
def narrow_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits a mapped window to a few rows. With such small windows, a reading needs many windows."""
    monkeypatch.setattr(map_array, "_PART_BYTES", 7_000)


def series_of(reading: Reading) -> SeriesReading:
    """Return a reading in which each slot has a series of its own."""
    return SeriesReading(
        reading.time_ns,
        reading.names,
        reading.slots,
        reading.created_ns,
        reading.generation,
        reading.rtts,
        reading.counts,
        reading.active,
        DetailsNumbers(),
    )


def histogram_of(bench: Bench, conversation: Conversation) -> int:
    slot = bench.slot_of(ip_network(conversation.subnet), EXTERNAL)
    assert slot
    row = bench.histogram_of(slot)
    assert row
    return row


def talks(bench: Bench, count: int) -> tuple[list[Conversation], list[int]]:
    """Return conversations and the histograms of their RTTs. Each conversation has one RTT. When the program counts
    this RTT, it creates the histogram of the conversation."""
    conversations = [Conversation(bench) for _ in range(count)]
    for conversation in conversations:
        conversation.record([MS])
    return conversations, [histogram_of(bench, conversation) for conversation in conversations]


def whole(bench: Bench, reading: Reading) -> Counts:
    """Return all buckets of all histograms of a reading."""
    return dense(reading.rtts.buckets, buckets.bucket_count(bench.config.scale))


def check(bench: Bench, reading: Reading) -> None:
    """Check that a reading equals the maps. A reading equals the maps only if no bucket has wrapped around."""
    rtts, rows = reading.rtts, len(reading.rtts.sum_ns)
    blocks = bench.blocks["buckets"][block_numbers(bench.histograms[:rows])].reshape(rows, -1)
    assert (whole(bench, reading) == blocks[:, : buckets.bucket_count(bench.config.scale)]).all()
    assert (rtts.buckets.totals() == bench.histograms["ended"][:rows]).all()
    assert (rtts.sum_ns == bench.histograms["sum_ns"][:rows]).all()
    assert not bench.histograms["ended"][rows:].any()
    used = np.flatnonzero(rtts.buckets.totals())
    used = used[used != OVERFLOW_HISTOGRAM]
    assert (rtts.rows[used] == bench.histograms["slot"][used]).all()
    assert (rtts.methods[used] == bench.histograms["method"][used]).all()


def update(bench: Bench, name: str, number: int, record: Any) -> None:
    libbpf.map_update(bench.collector.program.maps[name].fd, np.uint32(number).tobytes(), record.tobytes())


def write(bench: Bench, row: int, counts: npt.NDArray[np.uint32] | None = None, **fields: Any) -> None:
    """Change only the given fields of a histogram, and all of its buckets if `counts` is given.

    If a bucket that is not 0 has no block yet, the histogram gets the last block that no histogram uses. The program
    claims the last blocks of the table only when the table is nearly full.
    """
    record = bench.histograms[row].copy()
    for name, value in fields.items():
        record[name] = value
    if counts is not None:
        numbers = block_numbers(record[None])[0]
        padded = np.zeros(len(numbers) * BLOCK, np.uint32)
        padded[: len(counts)] = counts
        for place, part in enumerate(padded.reshape(-1, BLOCK)):
            if part.any() and not numbers[place]:
                used = block_numbers(bench.histograms[1:])
                numbers[place] = bench.config.max_blocks - np.count_nonzero(used > bench.config.max_blocks // 2)
                record["blocks"][place // 2] |= np.uint64(numbers[place]) << np.uint64(32 * (place % 2))
                # The record is written at once, so that the next new block gets another number.
                update(bench, "histograms", row, record)
            if numbers[place]:
                update(bench, "blocks", int(numbers[place]), part)
    update(bench, "histograms", row, record)


@pytest.mark.usefixtures("narrow_windows")
def test_new_buckets_are_found_anywhere_in_the_histogram(bench_of_scale: Bench) -> None:
    bench, chance = bench_of_scale, np.random.default_rng(6)
    readers = [bench.collector.reader(), bench.collector.reader()]
    conversations: list[Conversation] = []
    for turn in range(30):
        if turn % 5 == 0:
            conversations += talks(bench, 3)[0]
        for conversation in conversations:
            # Most RTTs are near the earlier RTTs. Some RTTs are random values from the whole range. From round 21 on,
            # one RTT is in the first or the last bucket.
            near = (MS * chance.uniform(1, 2, chance.integers(0, 4))).astype(np.int64)
            far = np.exp(chance.uniform(np.log(LEAST), np.log(GREATEST), chance.integers(0, 3))).astype(np.int64)
            ends = np.array([LEAST, GREATEST])[chance.integers(0, 2, int(turn > 20))]
            conversation.record([*near.tolist(), *(far if chance.random() < 0.2 else []), *ends.tolist()])
        check(bench, readers[0].read())
        if turn % 7 == 0:
            check(bench, readers[1].read())
    check(bench, readers[1].read())


def test_a_reading_keeps_little_more_than_the_buckets_in_use(every: Bench) -> None:
    """A reading keeps whole blocks. So a reading can contain up to 15 empty buckets below the bucket of the shortest
    RTT, and up to 15 above the bucket of the longest RTT."""
    (conversation,), (row,) = talks(every, 1)
    conversation.record([MS, 4 * MS])
    reading = every.collector.reader().read()
    occupied = np.flatnonzero(whole(every, reading)[row])
    found = reading.rtts.buckets
    assert found.lengths[row] <= occupied[-1] - occupied[0] + 1 + 2 * (BLOCK - 1)
    unused = np.flatnonzero(found.totals() == 0)
    assert not found.lengths[unused].any()


def test_rows_without_a_completed_rtt_are_not_read(every: Bench) -> None:
    _, (row,) = talks(every, 1)
    reader = every.collector.reader()
    before = whole(every, reader.read())
    counts = every.buckets_of(row)
    write(every, row, counts + 1)
    assert (every.buckets_of(row) == counts + 1).all()
    assert (whole(every, reader.read()) == before).all()
    write(every, row, counts)


def test_a_row_is_read_later_if_an_rtt_is_being_counted(every: Bench) -> None:
    """The program has counted the first of two RTTs completely, but the second RTT only in part.

    The second RTT is already in its bucket, far from the other buckets, but is not yet in the sum.
    """
    _, (row,) = talks(every, 1)
    reader = every.collector.reader()
    check(every, reader.read())
    was, before = every.histograms[row].copy(), every.buckets_of(row)
    counts = before.copy()
    counts[[3, 300]] += 1
    write(every, row, counts, began=was["began"] + 2, ended=was["ended"] + 1, sum_ns=was["sum_ns"] + 7 * MS)
    torn = reader.read()
    assert torn.rtts.sum_ns[row] == was["sum_ns"]
    assert (whole(every, torn)[row] == before).all()
    write(every, row, ended=was["ended"] + 2, sum_ns=was["sum_ns"] + 9 * MS)
    check(every, reader.read())
    check(every, reader.read())


def test_a_new_bucket_is_found_after_others_have_wrapped_around(every: Bench) -> None:
    _, (row,) = talks(every, 1)
    reader = every.collector.reader()
    was, before = every.histograms[row].copy(), every.buckets_of(row)
    assert (whole(every, reader.read())[row] == before).all()
    place = int(np.flatnonzero(before)[0])
    assert before[place] == 1
    # Each turn adds 2^32 - 1 RTTs to the bucket `place`. So the 32-bit count of this bucket is 0 after turn 1.
    for turn in range(1, 4):
        counts = every.buckets_of(row)
        counts[[place]] -= 1
        counts[[place + 17 * turn]] += 1
        ended = int(was["ended"]) + turn * 2**32
        write(every, row, counts, began=ended, ended=ended)
        found = whole(every, reader.read())[row]
        assert found[place] == 1 + turn * (2**32 - 1)
        assert found[[place + 17 * past for past in range(1, turn + 1)]].tolist() == [1] * turn
    write(every, row, before, began=was["began"], ended=was["ended"])


def test_a_row_is_read_again_if_an_rtt_was_counted_meanwhile(every: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (conversation,), _ = talks(every, 1)
    reader = every.collector.reader()
    reader.read()
    conversation.record([MS])
    later = [2 * MS, MS, 500 * MS]
    runs_of = HistogramReader._copy_runs

    def runs_of_slowly(*arguments: Any) -> Any:
        found = runs_of(*arguments)
        if later:
            conversation.record([later.pop()])
        return found

    monkeypatch.setattr(HistogramReader, "_copy_runs", runs_of_slowly)
    check(every, reader.read())
    assert not later


def test_a_row_is_read_again_if_it_needs_more_buckets_meanwhile(every: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (conversation,), _ = talks(every, 1)
    reader = every.collector.reader()
    reader.read()
    conversation.record([100 * MS])
    later = [5000 * MS, LEAST]
    widen = SparseHistograms.widen

    def widen_slowly(*arguments: Any) -> SparseHistograms:
        found = widen(*arguments)
        if later:
            conversation.record([later.pop()])
        return found

    monkeypatch.setattr(SparseHistograms, "widen", widen_slowly)
    check(every, reader.read())
    assert not later


def test_rtts_counted_during_readings_are_not_lost(every: Bench) -> None:
    conversations, rows = talks(every, 4)
    reader = every.collector.reader()
    enough = threading.Event()

    def record() -> None:
        chance = np.random.default_rng(8)
        while not enough.is_set():
            for conversation in conversations:
                conversation.record(np.exp(chance.uniform(np.log(LEAST), np.log(GREATEST), 5)).astype(int).tolist())

    thread = threading.Thread(target=record)
    thread.start()
    try:
        first = last = reader.read().rtts.buckets.totals()[rows]
        for _ in range(100):
            totals = reader.read().rtts.buckets.totals()[rows]
            assert (totals >= last).all()
            last = totals
    finally:
        enough.set()
        thread.join()
    assert (last > first).all(), "RTTs were counted during the readings"
    check(every, reader.read())


def add(sums: dict[int, Counts], pending: Unsent) -> None:
    """Add the pending buckets of each row to the row's sums. Each row has one histogram."""
    rtts = pending.rtts
    for row, counts in zip(rtts.rows.tolist(), dense(rtts.buckets, 415), strict=True):
        sums[row] = sums.get(row, np.zeros(415, np.uint64)) + counts


def test_delta_and_pending_counts_are_complete_while_runs_widen(every: Bench) -> None:
    conversations, histograms = talks(every, 6)
    chance = np.random.default_rng(7)
    reader = every.collector.reader()
    slots = every.histograms["slot"][histograms].astype(np.int64)
    counters = as_matrix(np.zeros(1, reader.counters_dtype)).shape[1]
    ledger = TemporalityTracker(delta=True, started_ns=1, counters=counters)
    received: dict[int, Counts] = {}
    for turn in range(25):
        for conversation in conversations[: int(chance.integers(1, 7))]:
            spread = 1 + turn / 4
            conversation.record((MS * np.exp(chance.uniform(-spread, spread, 3))).astype(np.int64).tolist())
        ledger.update(series_of(reader.read()))
        rows = ledger.rows()
        for part in np.array_split(rows, 4):
            if chance.random() < 0.6:
                add(received, ledger.pending(part))
                ledger.acknowledge(part)
        complete = dict(received)
        add(complete, ledger.pending(np.sort(slots)))
        for slot, histogram in zip(slots.tolist(), histograms, strict=True):
            assert (complete[slot] == every.buckets_of(histogram)).all()


def test_without_threads_the_maps_are_read_one_after_the_other(every: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the interpreter shuts down, Python 3.12 and later cannot start a thread."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    conversations, _ = talks(every, 1)
    conversations[0].record([MS, 9 * MS])
    expected = every.collector.reader().read()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    reading = every.collector.reader().read()
    check(every, reading)
    assert (reading.counters == expected.counters).all()


def test_an_error_in_the_other_thread_is_raised_and_the_next_reading_is_whole(
    every: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no memory to read")

    reader: Reader = every.collector.reader()
    monkeypatch.setattr(SubnetCounters, "read", fail)
    with pytest.raises(OSError, match="no memory"):
        reader.read()
    monkeypatch.undo()
    talks(every, 1)
    check(every, reader.read())
