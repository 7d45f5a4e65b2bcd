# SPDX-License-Identifier: Apache-2.0
"""Reads the program's histograms. In most rows only the buckets in use are read: some 160 bytes of 1660.

Which buckets are in use is known from earlier readings. The program also counts the RTTs of each row (`ended`). If the
known buckets of a row add up to less than `ended`, all buckets of the row are searched.
"""

from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Words, grow
from otel_epping.kernel.count_table import CountTable
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.parallel import Shared
from otel_epping.kernel.sparse_histograms import spans, starts_of, sums

# Buckets are read in blocks of a cache line. Reading single buckets takes twice as long.
BLOCK = 16
# numpy copies an item of this type as a whole, in half the time that 16 numbers take.
_BLOCK_TYPE = np.dtype((np.void, 4 * BLOCK))
# How often a row is read at most in one reading, if RTTs are counted into it meanwhile.
_TRIES = 16
# How often runs are widened at most in one reading, if RTTs are counted outside of them meanwhile.
_PASSES = 4


def _include(first: Indexes, end: Indexes, rows: Indexes, occupied: Flags) -> None:
    """Extends the ranges [first, end) of these rows to include their occupied buckets, (rows, buckets)."""
    some = occupied.any(axis=1)
    rows, occupied = rows[some], occupied[some]
    lowest, past_highest = occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    first[rows] = np.where(first[rows] == end[rows], lowest, np.minimum(first[rows], lowest))
    end[rows] = np.maximum(end[rows], past_highest)


def _copy_blocks(words: Words, places: Indexes) -> Words:
    """Copies the blocks that start at these places, one after the other: (places * BLOCK,)."""
    at_any_word = np.ndarray(len(words) - BLOCK + 1, _BLOCK_TYPE, words, strides=(4,))
    return at_any_word[places].view(np.uint32)


class HistogramReader:
    """Reads buckets and sums of RTTs into a table of counts. The program's buckets have 32 bits, the table's have 64.

    The run of each row in the table (sparse_histograms.py) has whole blocks. Example with 415 buckets, as at scale 4:

    - RTTs are counted in buckets 100 to 120. The run gets two blocks, buckets 100 to 131: `first` is 100.
    - An RTT is counted in bucket 90. `ended` is one more than the sum of the run, so the row is searched. To include
      buckets 90 to 131, the run gets three blocks, buckets 90 to 137: `first` is 90.
    - RTTs are counted in buckets 0 and 414. All 415 buckets need 26 blocks, which are 416 words. A run never extends
      past the last bucket, as the next row starts there. So it starts one word before bucket 0: `first` is -1. That
      word is part of `max_word`. It is copied with the first block and then set to 0.

    ended  (rows,) RTTs of each row
    """

    def __init__(self, array: Array, counts: CountTable) -> None:
        self._array, self._counts = array, counts
        buckets, offset = array.dtype.fields["buckets"][:2]  # type: ignore[index]  # a struct
        self._buckets: int = buckets.shape[0]
        self._surplus = -self._buckets % BLOCK  # words that a run of a whole row has before bucket 0
        # In words of 32 bits: size of a row, and where its buckets start.
        self._row_words, self._first_word = array.dtype.itemsize // 4, offset // 4
        self.ended: Counts = np.zeros(0, np.uint64)

    def reset(self, rows: Indexes) -> None:
        """Sets `ended` of rows with a new owner to 0. The caller resets the rows of the table."""
        self.ended[rows] = 0

    def grow(self, rows: int) -> None:
        """Makes room for at least `rows` rows. The caller grows the table."""
        self.ended = grow(self.ended, rows)

    def begin(self, rows: int) -> None:
        """Prepares to read the first `rows` rows. Then threads call work(), and at last one thread calls finish()."""
        self._begin_pass(self._array.parts(rows))

    def _begin_pass(self, parts: Iterator[tuple[int, int]]) -> None:
        self._parts = Shared(parts)
        self._outgrown: list[tuple[int, int]] = []
        self._first = self._counts.buckets.first.copy()
        self._end = self._first + self._counts.buckets.lengths

    def work(self, visit: Callable[[int, Records], None]) -> None:
        """Reads part by part until no part is left. Any number of threads may call it at a time.

        visit  called for each part that is read, with the number of the part's first row and the program's rows
        """
        for begin, end in self._parts:
            histograms = self._array.rows(begin, end)
            short = self._read_changed(begin, histograms)
            visit(begin, histograms)
            if len(short):
                _include(self._first, self._end, short, histograms["buckets"][short - begin] != 0)
                self._outgrown.append((begin, end))
            del histograms  # else the part stays mapped while the next one is mapped

    def finish(self, visit: Callable[[int, Records], None]) -> None:
        """Widens runs that were too narrow, and reads the parts of their rows again."""
        for _ in range(_PASSES):
            if not self._outgrown:
                break
            self._widen_runs(self._first, self._end)
            self._begin_pass(iter(self._outgrown))
            self.work(visit)

    def _widen_runs(self, first: Indexes, end: Indexes) -> None:
        """Makes the runs contain buckets `first` to `end` - 1, (rows,). New buckets are 0 until they are read."""
        lengths = -(-(end - first) // BLOCK) * BLOCK
        self._counts.buckets = self._counts.buckets.widen(
            np.minimum(first, self._buckets - lengths), starts_of(lengths)
        )

    def _read_changed(self, begin: int, histograms: Records) -> Indexes:
        """Reads the rows from `begin` on that have new RTTs. Returns rows that have RTTs outside of their runs.

        A row is read again while RTTs are counted into it, so that its buckets and its sum are of the same RTTs. If the
        program was interrupted on one CPU while it counted, the row stays in that state. Such a row keeps its previous
        counts until the next reading.
        """
        rows = np.flatnonzero(histograms["ended"] != self.ended[begin : begin + len(histograms)]) + begin
        short = [rows[:0]]
        all_starts = self._counts.buckets.starts
        for _ in range(_TRIES):
            if not len(rows):
                break
            ended = histograms["ended"][rows - begin]
            sum_ns = histograms["sum_ns"][rows - begin]
            starts = starts_of(all_starts[rows + 1] - all_starts[rows])
            new = self._copy_runs(rows, begin, starts, histograms)
            is_whole = sums(new, starts) == ended.astype(np.uint32)
            is_still = histograms["began"][rows - begin] == ended
            short.append(rows[is_still & ~is_whole])
            taken = is_still & is_whole
            self._take(rows, np.diff(starts) // BLOCK, new, taken)
            self._counts.sum_ns[rows[taken]], self.ended[rows[taken]] = sum_ns[taken], ended[taken]
            rows = rows[~is_still]
        return np.concatenate(short)

    def _copy_runs(self, rows: Indexes, begin: int, starts: Indexes, histograms: Records) -> Words:
        """Copies the program's buckets in the runs of these rows; the copy of each run starts where `starts` says."""
        first = self._counts.buckets.first[rows]
        first_words = (rows - begin) * self._row_words + self._first_word + first
        new = _copy_blocks(histograms.view(np.uint32), spans(first_words, np.diff(starts) // BLOCK, BLOCK))
        whole_rows = starts[:-1][first < 0]
        new[spans(whole_rows, np.full(len(whole_rows), self._surplus))] = 0
        return new

    def _take(self, rows: Indexes, blocks: Indexes, new: Words, taken: Flags) -> None:
        """Adds to the table what the buckets of those rows have counted that are `taken`.

        rows, blocks, taken  (rows,) `blocks` is the length of the row's run, in blocks
        new                  the program's buckets in these runs, one run after the other

        A 32-bit bucket may have wrapped around since the previous reading, so the difference is taken modulo 2^32.
        """
        new = new.reshape(-1, BLOCK)
        if not taken.all():
            new, rows, blocks = new[np.repeat(taken, blocks)], rows[taken], blocks[taken]
        if not len(new):
            return
        buckets = self._counts.buckets
        places = buckets.starts[rows] // BLOCK
        # If all runs lie next to each other, a slice is enough. It is a view, and saves half the time of a copy.
        is_slice = places[-1] + blocks[-1] - places[0] == len(new)
        where = slice(places[0], places[0] + len(new)) if is_slice else spans(places, blocks)
        counts = buckets.counts.reshape(-1, BLOCK)
        seen = counts[where]
        seen += new - seen.astype(np.uint32)
        if not is_slice:
            counts[where] = seen
