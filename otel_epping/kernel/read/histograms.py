# SPDX-License-Identifier: Apache-2.0
"""Reads the program's histograms.

In most rows, only the buckets in use are read, which are about 160 of the 1660 bytes of a row. The reader knows from
earlier readings which buckets are in use. The program also counts the RTTs of each row (`ended`). If the RTTs in the
known buckets of a row are fewer than `ended`, all buckets of the row are read.
"""

from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.kernel.arrays import Counts, Flags, Indexes, Records, Words, grow
from otel_epping.kernel.count_table import CountTable
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.parallel import Shared
from otel_epping.kernel.sparse_histograms import spans, starts_of, sums

# Number of buckets in a block. Buckets are read in blocks, because reading single buckets takes twice as long as
# reading blocks. A block fills a cache line.
BLOCK = 16
# The numpy type of a block is opaque, because numpy copies an opaque item in one operation. Copying 16 separate numbers
# takes twice as long as copying a block.
_BLOCK_TYPE = np.dtype((np.void, 4 * BLOCK))
# If new RTTs are counted in a row while the row is read, the row is read again. In one reading, a row is read at most
# _TRIES times.
_TRIES = 16
# If new RTTs are counted outside of the runs while the runs are read, the runs are widened, and read again. In one
# reading, runs are widened at most _PASSES times.
_PASSES = 4


def _include(first: Indexes, end: Indexes, rows: Indexes, occupied: Flags) -> None:
    """Extends the range [first, end) of each given row so that the range includes all occupied buckets of the row.

    occupied  (rows, buckets) true if the bucket is not 0
    """
    some = occupied.any(axis=1)
    rows, occupied = rows[some], occupied[some]
    lowest, past_highest = occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    first[rows] = np.where(first[rows] == end[rows], lowest, np.minimum(first[rows], lowest))
    end[rows] = np.maximum(end[rows], past_highest)


def _copy_blocks(words: Words, places: Indexes) -> Words:
    """Copies the blocks that start at the given places, one after the other. The shape is (places * BLOCK,)."""
    at_any_word = np.ndarray(len(words) - BLOCK + 1, _BLOCK_TYPE, words, strides=(4,))
    return at_any_word[places].view(np.uint32)


class HistogramReader:
    """Reads buckets and sums of RTTs into a table of counts.

    The program's buckets have 32 bits, and the buckets of the table have 64 bits. The table stores only one run of
    consecutive buckets of each row (sparse_histograms.py). A run consists of whole blocks. At scale 4, a row has 415
    buckets. An example at this scale:

    - RTTs are counted in the buckets 100 to 120. The run gets two blocks, the buckets 100 to 131. `first` is 100.
    - Later, an RTT is counted in bucket 90. Now `ended` is greater by 1 than the sum of the run, so all buckets of the
      row are read. The run must include buckets 90 to 131. So the run gets three whole blocks, which are the buckets 90
      to 137. `first` is 90.
    - Later, RTTs are counted in the buckets 0 and 414. All 415 buckets need 26 blocks, which are 416 words. A run
      cannot extend past the last bucket, because the next row starts after the last bucket. So the run starts one word
      before bucket 0,
      and `first` is -1. The word before bucket 0 is part of `max_word`. In the run, the word before bucket 0 is set to
      0.

    ended  (rows,) the number of RTTs of each row
    """

    def __init__(self, array: Array, counts: CountTable) -> None:
        self._array, self._counts = array, counts
        buckets, offset = array.dtype.fields["buckets"][:2]  # type: ignore[index]  # a struct
        self._buckets: int = buckets.shape[0]
        self._surplus = -self._buckets % BLOCK  # number of words that a run of all buckets has before bucket 0
        # The size of a row, and the offset of the buckets in a row, in words of 32 bits.
        self._row_words, self._first_word = array.dtype.itemsize // 4, offset // 4
        self.ended: Counts = np.zeros(0, np.uint64)

    def reset(self, rows: Indexes) -> None:
        """Sets `ended` to 0 for rows that have a new owner. The caller must also reset the same rows of the table."""
        self.ended[rows] = 0

    def grow(self, rows: int) -> None:
        """Makes room for at least `rows` rows. The caller must also extend the table."""
        self.ended = grow(self.ended, rows)

    def begin(self, rows: int) -> None:
        """Prepares to read the first `rows` rows.

        After begin() returns, one or more threads must call work(). When work() has returned in all threads, one thread
        must call finish().
        """
        self._begin_pass(self._array.parts(rows))

    def _begin_pass(self, parts: Iterator[tuple[int, int]]) -> None:
        self._parts = Shared(parts)
        self._outgrown: list[tuple[int, int]] = []
        self._first = self._counts.buckets.first.copy()
        self._end = self._first + self._counts.buckets.lengths

    def work(self, visit: Callable[[int, Records], None]) -> None:
        """Reads one part after the other until all parts are read. Several threads may call work() at the same time.

        visit  a function that is called for each part. Its arguments are the number of the part's first row, and the
               program's rows of the part
        """
        for begin, end in self._parts:
            histograms = self._array.rows(begin, end)
            short = self._read_changed(begin, histograms)
            visit(begin, histograms)
            if len(short):
                _include(self._first, self._end, short, histograms["buckets"][short - begin] != 0)
                self._outgrown.append((begin, end))
            del histograms  # unmaps the part before the next part is mapped

    def finish(self, visit: Callable[[int, Records], None]) -> None:
        """Widens the runs that were too narrow, and rereads the parts that contain widened runs."""
        for _ in range(_PASSES):
            if not self._outgrown:
                break
            self._widen_runs(self._first, self._end)
            self._begin_pass(iter(self._outgrown))
            self.work(visit)

    def _widen_runs(self, first: Indexes, end: Indexes) -> None:
        """Extends each run to include the buckets `first` to `end` - 1. New buckets are 0 until they are read.

        `first` and `end` have the shape (rows,).
        """
        lengths = -(-(end - first) // BLOCK) * BLOCK
        self._counts.buckets = self._counts.buckets.widen(
            np.minimum(first, self._buckets - lengths), starts_of(lengths)
        )

    def _read_changed(self, begin: int, histograms: Records) -> Indexes:
        """Reads the rows of a part that have new RTTs. Returns the rows whose run does not contain all RTTs of the row.

        If an RTT is counted in a row while the row is read, the row is read again, so that its buckets and its sum
        contain the same RTTs. If the program is interrupted on a CPU while it counts an RTT, each of the _TRIES
        attempts can fail. If all attempts fail, the table keeps the row's previous counts until the next reading.

        begin       the number of the first row of the part
        histograms  the program's rows of the part
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
        """Copies the program's buckets that are in the runs of the given rows.

        `starts` has each run's position in the copy.
        """
        first = self._counts.buckets.first[rows]
        first_words = (rows - begin) * self._row_words + self._first_word + first
        new = _copy_blocks(histograms.view(np.uint32), spans(first_words, np.diff(starts) // BLOCK, BLOCK))
        whole_rows = starts[:-1][first < 0]
        new[spans(whole_rows, np.full(len(whole_rows), self._surplus))] = 0
        return new

    def _take(self, rows: Indexes, blocks: Indexes, new: Words, taken: Flags) -> None:
        """Adds the increases of the buckets to the table, for each row whose `taken` is true.

        rows    (rows,) the numbers of the rows
        blocks  (rows,) the length of each row's run, in blocks
        taken   (rows,) true if the increases of the row are added
        new     the program's buckets in the runs of all given rows, one run after the other

        A 32-bit bucket may have wrapped around since the previous reading, so the difference is taken modulo 2^32.
        """
        new = new.reshape(-1, BLOCK)
        if not taken.all():
            new, rows, blocks = new[np.repeat(taken, blocks)], rows[taken], blocks[taken]
        if not len(new):
            return
        buckets = self._counts.buckets
        places = buckets.starts[rows] // BLOCK
        # If all runs are adjacent, the buckets of the runs are accessed as a slice. A slice is a view, which takes half
        # the time of a copy.
        is_slice = places[-1] + blocks[-1] - places[0] == len(new)
        where = slice(places[0], places[0] + len(new)) if is_slice else spans(places, blocks)
        counts = buckets.counts.reshape(-1, BLOCK)
        seen = counts[where]
        seen += new - seen.astype(np.uint32)
        if not is_slice:
            counts[where] = seen
