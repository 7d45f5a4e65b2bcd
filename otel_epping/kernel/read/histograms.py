# SPDX-License-Identifier: Apache-2.0
"""The program's histograms, each read where it has counts: the 160 bytes of its RTTs and not the 1660 of all buckets.

Which buckets these are is known from readings before. Whether they are still all, the row itself tells: it counts its
RTTs once more (`ended`), and where the known buckets don't add up to that, all of its buckets are looked at.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.arrays import Counts, grow
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.read.parallel import Shared
from otel_epping.kernel.sparse import Numbers, SparseHistograms, spans, starts_of, sums

# Buckets are read in blocks of so many: a cache line. One by one takes twice as long.
BLOCK = 16
# How often a row is read while RTTs are counted into it, and one that outgrew its run while it outgrows the wider one.
_TRIES = 16
_PASSES = 4


def _widen(first: Numbers, end: Numbers, rows: Numbers, occupied: npt.NDArray[np.bool_]) -> None:
    """Makes the runs of some rows as wide as their occupied buckets, (rows, buckets), need; none less wide."""
    some = occupied.any(axis=1)
    rows, occupied = rows[some], occupied[some]
    lowest, behind = occupied.argmax(axis=1), occupied.shape[1] - occupied[:, ::-1].argmax(axis=1)
    first[rows] = np.where(first[rows] == end[rows], lowest, np.minimum(first[rows], lowest))
    end[rows] = np.maximum(end[rows], behind)


class Histograms:
    """One reader's account of the histograms; `runs`, `sum_ns` and `ended`, RTTs, are good until the next reading.

    Runs have whole blocks. One as wide as a row may begin a few buckets before the row's first.
    """

    def __init__(self, array: Array) -> None:
        self._array = array
        buckets, offset = array.dtype.fields["buckets"][:2]  # type: ignore[index]  # a struct
        self._buckets: int = buckets.shape[0]
        self._missing = -self._buckets % BLOCK
        # In words of 32 bits: the size of a row, and where in it the buckets begin.
        self._words, self._offset = array.dtype.itemsize // 4, offset // 4
        self.runs = SparseHistograms.empty(0)
        self.sum_ns: Counts = np.zeros(0, np.uint64)
        self.ended: Counts = np.zeros(0, np.uint64)
        self._begin_pass(iter(()))

    def forget(self, rows: Numbers) -> None:
        """Some rows, of those that were read, are somebody else's, and count from 0."""
        self.runs = self.runs.without(rows)
        self.sum_ns[rows] = self.ended[rows] = 0

    def begin(self, rows: int) -> None:
        """Begins to read the first `rows` rows. Then comes work(), by as many threads as like, and then finish()."""
        self.runs = self.runs.grow(rows)
        self.sum_ns = grow(self.sum_ns, rows)
        self.ended = grow(self.ended, rows)
        self._begin_pass(self._array.parts(rows))

    def _begin_pass(self, parts: Iterator[tuple[int, int]]) -> None:
        self._parts = Shared(parts)
        self._outgrown: list[tuple[int, int]] = []
        self._first = self.runs.first.copy()
        self._end = self._first + self.runs.lengths

    def work(self, look: Callable[[int, npt.NDArray[Any]], None]) -> None:
        """Takes in what is new, part by part until there are no more, and has others `look` at the program's rows, too.

        That is given the number of a first row, and the rows from there on.
        """
        for begin, end in self._parts:
            histograms = self._array.rows(begin, end)
            short = self._read_changed(begin, histograms)
            look(begin, histograms)
            if len(short):
                _widen(self._first, self._end, short, histograms["buckets"][short - begin] != 0)
                self._outgrown.append((begin, end))
            del histograms  # or it stays mapped until the next part is, too

    def finish(self, look: Callable[[int, npt.NDArray[Any]], None]) -> None:
        """Reads once more the parts with rows whose runs were not wide enough."""
        for _ in range(_PASSES):
            if not self._outgrown:
                break
            self._lay_out(self._first, self._end)
            self._begin_pass(iter(self._outgrown))
            self.work(look)

    def _lay_out(self, first: Numbers, end: Numbers) -> None:
        """Makes runs as wide as these, or wider by less than a block. What is new in them is yet to be read."""
        lengths = -(-(end - first) // BLOCK) * BLOCK
        self.runs = self.runs.within(np.minimum(first, self._buckets - lengths), starts_of(lengths))

    def _read_changed(self, begin: int, histograms: npt.NDArray[Any]) -> Numbers:
        """Reads what was counted into the program's rows from `begin` on. Returns rows that have more than was read.

        A row is read again while RTTs are being counted into it, so that buckets and sum are of the same RTTs. One that
        never holds still, for its CPU was taken away in the midst of counting, is left as it was for the next reading.
        """
        rows = np.flatnonzero(histograms["ended"] != self.ended[begin : begin + len(histograms)]) + begin
        short = [rows[:0]]
        for _ in range(_TRIES):
            if not len(rows):
                break
            ended = histograms["ended"][rows - begin]
            sum_ns = histograms["sum_ns"][rows - begin]
            starts = starts_of(self.runs.starts[rows + 1] - self.runs.starts[rows])
            new = self._runs_of(rows, begin, starts, histograms)
            is_whole = sums(new, starts) == ended.astype(np.uint32)
            is_still = histograms["began"][rows - begin] == ended
            short.append(rows[is_still & ~is_whole])
            taken = is_still & is_whole
            self._take(rows, np.diff(starts) // BLOCK, new, taken)
            self.sum_ns[rows[taken]], self.ended[rows[taken]] = sum_ns[taken], ended[taken]
            rows = rows[~is_still]
        return np.concatenate(short)

    def _runs_of(
        self, rows: Numbers, begin: int, starts: Numbers, histograms: npt.NDArray[Any]
    ) -> npt.NDArray[np.uint32]:
        """What the program's buckets have counted, where these rows have runs: each begins where `starts` says."""
        first = self.runs.first[rows]
        words = histograms.view(np.uint32)
        at_any_word = np.ndarray(len(words) - BLOCK + 1, np.dtype((np.void, 4 * BLOCK)), words, strides=(4,))
        here = spans((rows - begin) * self._words + self._offset + first, np.diff(starts) // BLOCK, BLOCK)
        new = at_any_word[here].view(np.uint32)
        before = starts[:-1][first < 0]
        new[spans(before, np.full(len(before), self._missing))] = 0  # what is in front of the row's buckets
        return new

    def _take(self, rows: Numbers, blocks: Numbers, new: npt.NDArray[np.uint32], taken: npt.NDArray[np.bool_]) -> None:
        """Adds what is new to the runs of those rows that are `taken`; the runs have so many blocks.

        A 32-bit bucket may have wrapped around, so the difference is taken modulo 2^32.
        """
        new = new.reshape(-1, BLOCK)
        if not taken.all():
            new, rows, blocks = new[np.repeat(taken, blocks)], rows[taken], blocks[taken]
        if not len(new):
            return
        places = self.runs.starts[rows] // BLOCK
        # Runs that lie together, with none but empty ones between, are a slice: a view, for half the time of a copy.
        together = places[-1] + blocks[-1] - places[0] == len(new)
        there = slice(places[0], places[0] + len(new)) if together else spans(places, blocks)
        counts = self.runs.counts.reshape(-1, BLOCK)
        seen = counts[there]
        seen += new - seen.astype(np.uint32)
        if not together:
            counts[there] = seen
