# SPDX-License-Identifier: Apache-2.0
"""Reads the program's histograms.

Only the buckets in use are read, which are about 160 of the 1660 bytes of a histogram.

The program keeps the buckets of a histogram in blocks of 16 buckets, and claims a block when an RTT is counted in one
of its buckets (bpf/histogram.h). A histogram stores the numbers of its blocks. Block 0 is never claimed, so all of its
buckets are 0.
"""

from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.kernel.arrays import Counts, Indexes, Records, Words, grow
from otel_epping.kernel.count_table import HistogramTable
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.parallel import Shared
from otel_epping.kernel.sparse_histograms import spans, starts_of, sums

# The number of buckets in a block.
BLOCK = 16
# numpy copies an item of this type at once. Copying 16 separate numbers would take twice as long as copying such an
# item.
_BLOCK_TYPE = np.dtype((np.void, 4 * BLOCK))
# If new RTTs are counted in a row while the row is read, the row is read again. In one reading, a row is read at most
# _TRIES times.
_TRIES = 16
# If new RTTs are counted outside of the runs while the runs are read, the runs are widened, and read again. In one
# reading, runs are widened at most _PASSES times.
_PASSES = 4
# Up to _ROWS_AT_ONCE rows are copied in one step, so that the copies need little memory. Steps of 512 rows need as much
# memory, and a tenth more CPU time.
_ROWS_AT_ONCE = 1024


def numbers_of(words: Counts) -> Indexes:
    """Splits each 64-bit word into two 32-bit numbers. The low 32 bits are the first number (PAIRS in bpf/maps.h).

    words  (rows, n)

    The shape of the result is (rows, 2 * n).
    """
    pairs = np.stack([words & np.uint64(0xFFFFFFFF), words >> np.uint64(32)], axis=-1)
    return pairs.reshape(len(words), 2 * words.shape[1]).view(np.int64)


def block_numbers(histograms: Records) -> Indexes:
    """Returns the block numbers of each histogram.

    A number is 0 if the histogram does not have the block. The shape is (rows, blocks).
    """
    return numbers_of(histograms["blocks"])


class HistogramReader:
    """Reads buckets and sums of RTTs into a table.

    The program's buckets have 32 bits, and the buckets of the table have 64 bits. Each row of the table has a run of
    buckets (sparse_histograms.py), from the first bucket of the row's first block to the last bucket of the row's last
    block. For example, if RTTs are counted in the buckets 100 to 120, the row has the blocks 6 and 7, and its run
    contains the buckets 96 to 127.

    Blocks are mapped only while work() reads them, because mapped pages count as resident memory of the agent.

    ended  (rows,) the number of RTTs of each row
    """

    def __init__(self, histograms: Array, blocks: Array, table: HistogramTable) -> None:
        self._histograms, self._blocks, self._table = histograms, blocks, table
        self._mapped: Records | None = None
        self._block_count = 0
        self.ended: Counts = np.zeros(0, np.uint64)

    def reset(self, rows: Indexes) -> None:
        """Sets `ended` to 0 for rows that have a new owner. The caller must also reset these rows of the table."""
        self.ended[rows] = 0

    def grow(self, rows: int) -> None:
        """Makes room for at least `rows` rows. The caller must also extend the table."""
        self.ended = grow(self.ended, rows)

    def begin(self, rows: int) -> None:
        """Prepares to read the first `rows` rows.

        After begin(), one or more threads must call work(). When work() has returned in all threads, one thread must
        call finish().
        """
        self._begin_pass(self._histograms.parts(rows))

    def _begin_pass(self, parts: Iterator[tuple[int, int]]) -> None:
        self._parts = Shared(parts)
        self._outgrown: list[tuple[int, int]] = []
        self._first = self._table.buckets.first.copy()
        self._end = self._first + self._table.buckets.lengths

    def work(self, visit: Callable[[int, Records], None]) -> None:
        """Reads one part after the other until all parts are read.

        Several threads may call this method at the same time.

        visit  a function that is called for each part. Its arguments are the number of the part's first row, and the
               program's rows of the part
        """
        for begin, end in self._parts:
            histograms = self._histograms.rows(begin, end)
            if self._read_changed(begin, histograms):
                self._outgrown.append((begin, end))
            visit(begin, histograms)
            del histograms  # otherwise the part would stay mapped while the next part is mapped

    def finish(self, visit: Callable[[int, Records], None]) -> None:
        """Widens the runs that were too narrow, and reads the parts that contain these runs again."""
        self._mapped = None
        for _ in range(_PASSES):
            if not self._outgrown:
                break
            self._table.buckets = self._table.buckets.widen(self._first, starts_of(self._end - self._first))
            self._begin_pass(iter(self._outgrown))
            self.work(visit)
            self._mapped = None

    def _read_changed(self, begin: int, histograms: Records) -> bool:
        """Reads the rows of a part that have new RTTs. Returns true if a row has blocks outside of its run.

        If an RTT is counted in a row while the row is read, the row is read again, so that its buckets and its sum
        contain the same RTTs. If the program is interrupted on a CPU while it counts an RTT, all attempts fail. The row
        then keeps its previous counts until the next reading.

        begin       the number of the first row of the part
        histograms  the program's rows of the part
        """
        changed = np.flatnonzero(histograms["ended"] != self.ended[begin : begin + len(histograms)]) + begin
        outgrown = False
        for first in range(0, len(changed), _ROWS_AT_ONCE):
            outgrown |= self._read_rows(changed[first : first + _ROWS_AT_ONCE], begin, histograms)
        return outgrown

    def _read_rows(self, rows: Indexes, begin: int, histograms: Records) -> bool:
        """Reads the given rows of a part. The other parameters and the result are as in _read_changed()."""
        outgrown = False
        for _ in range(_TRIES):
            if not len(rows):
                break
            ended = histograms["ended"][rows - begin]
            sum_ns = histograms["sum_ns"][rows - begin]
            numbers = block_numbers(histograms[rows - begin])
            fits = self._include(rows, numbers)
            outgrown |= not fits.all()
            rows, ended, sum_ns, numbers = rows[fits], ended[fits], sum_ns[fits], numbers[fits]
            new, starts = self._copy_runs(rows, numbers)
            is_still = histograms["began"][rows - begin] == ended
            taken = is_still & (sums(new, starts) == ended.astype(np.uint32))
            self._take(rows, np.diff(starts) // BLOCK, new, taken)
            self._table.sum_ns[rows[taken]], self.ended[rows[taken]] = sum_ns[taken], ended[taken]
            rows = rows[~is_still]
        return outgrown

    def _include(self, rows: Indexes, numbers: Indexes) -> Indexes:
        """Extends the planned run of each given row, so that the run includes all blocks of the row.

        Returns an array that is true for each row whose present run already includes all blocks of the row.

        numbers  (rows, blocks) as block_numbers() returns them
        """
        is_used = numbers != 0
        some = is_used.any(axis=1)
        first = is_used.argmax(axis=1) * BLOCK
        end = (numbers.shape[1] - is_used[:, ::-1].argmax(axis=1)) * BLOCK
        present = self._table.buckets
        begins, lengths = present.first[rows], present.starts[rows + 1] - present.starts[rows]
        fits = ~some | ((first >= begins) & (end <= begins + lengths))
        wider = np.flatnonzero(~fits)
        is_empty = lengths[wider] == 0
        self._first[rows[wider]] = np.where(is_empty, first[wider], np.minimum(first[wider], begins[wider]))
        self._end[rows[wider]] = np.where(is_empty, end[wider], np.maximum(end[wider], (begins + lengths)[wider]))
        return np.asarray(fits)

    def _copy_runs(self, rows: Indexes, numbers: Indexes) -> tuple[Words, Indexes]:
        """Copies the program's buckets in the runs of the given rows.

        Also returns the position of each run in the copy.

        numbers  (rows, blocks) as block_numbers() returns them
        """
        present = self._table.buckets
        lengths = present.starts[rows + 1] - present.starts[rows]
        if not lengths.any():
            return np.zeros(0, np.uint32), starts_of(lengths)
        columns = numbers.shape[1]
        places = spans(np.arange(len(rows)) * columns + present.first[rows] // BLOCK, lengths // BLOCK)
        wanted = numbers.ravel()[places]
        blocks = self._map_blocks(int(wanted.max()) + 1)
        return blocks["buckets"].view(_BLOCK_TYPE).ravel()[wanted].view(np.uint32), starts_of(lengths)

    def _map_blocks(self, count: int) -> Records:
        """Returns at least the first `count` blocks.

        All blocks that are in use are mapped once in a pass. If a later row has a block that is not mapped, the blocks
        are mapped again, with an eighth more, because the following rows often have later blocks.

        Benign race: two threads may map the blocks at the same time. At worst the blocks are mapped once more.
        """
        blocks = self._mapped
        if blocks is None or len(blocks) < count:
            blocks = self._mapped = None  # otherwise all blocks would be mapped twice for a moment
            if count > self._block_count:
                self._block_count = min(count + count // 8, self._blocks.length)
            blocks = self._mapped = self._blocks.rows(0, max(count, self._block_count))
        return blocks

    def _take(self, rows: Indexes, blocks: Indexes, new: Words, taken: Indexes) -> None:
        """Adds the increments of buckets to the table, for the rows in which `taken` is true.

        rows    (rows,) the numbers of the rows
        blocks  (rows,) the length of each row's run, in blocks
        taken   (rows,) true if the increments of the row are added
        new     the program's buckets in the runs of all these rows, one run after the other

        A 32-bit bucket may have wrapped around since the previous reading, so the difference is taken modulo 2^32.
        """
        new = new.reshape(-1, BLOCK)
        if not taken.all():
            new, rows, blocks = new[np.repeat(taken, blocks)], rows[taken], blocks[taken]
        if not len(new):
            return
        buckets = self._table.buckets
        places = buckets.starts[rows] // BLOCK
        # If all runs are adjacent, their buckets are accessed as a slice. A slice is a view, which takes half the time
        # of a copy.
        is_slice = places[-1] + blocks[-1] - places[0] == len(new)
        where = slice(places[0], places[0] + len(new)) if is_slice else spans(places, blocks)
        counts = buckets.counts.reshape(-1, BLOCK)
        seen = counts[where]
        seen += new - seen.astype(np.uint32)
        if not is_slice:
            counts[where] = seen
