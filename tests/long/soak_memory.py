# SPDX-License-Identifier: Apache-2.0
"""Checks whether the memory of an agent stays flat.

Resident memory cannot show this within minutes. Arrays and requests of up to a megabyte are allocated and freed in
glibc's arena of the exporting thread. glibc returns freed memory to the kernel only from the end of an arena, so the
arena has 4 MB now and 11 MB a minute later. The memory that is allocated and not free is exact: the agent reports it
(soak_agent.py).

A round is one interface that is replaced, one collector that is killed, and 1500 flows, with seven to eleven exports.
The agent is asked several times a round, and the smallest answer counts, which is one between two exports. Growth is
the median of the slopes between any two rounds of the second half (Theil-Sen estimator), so that neither noise nor a
single step, such as a table that doubles, counts for much. In the first half the agent sees names for the first time,
slots come into use and tables fill up.

Without a leak, the blocks of a round vary by about 10 (standard deviation), the slope of 8 rounds by 1.5, and the slope
of 17 rounds by 0.5. One small object leaked by each export is a slope of 6.8 to 10. So after 17 rounds, 8 of them in
the second half, a slope above 2.4 means a leak or chance: the run then goes on, for twice the time at most
(`looks_flat`). A slope above 4 at the end means a leak (`check`).
"""

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import NamedTuple

MAX_BLOCKS = 4.0  # a round
# Exceeded by 90 bytes that C code leaks for each flow, or by 15 kB for each export. Tables that fill up are 50 kB.
MAX_BYTES = 131_072.0  # a round
# In all rounds. glibc keeps up to half of this: the rest is for holes in the arenas. 1 kB leaked for each flow would be
# 1.5 MB a round.
MAX_RESIDENT_KB = 12_288
# The share of these limits below which growth looks like none.
FLAT = 0.6


class Held(NamedTuple):
    """Memory in one round: Python's blocks, bytes allocated by malloc(), and resident memory in kB."""

    blocks: int
    malloc_bytes: int
    resident_kb: int


def slope(values: Sequence[float]) -> float:
    """Return the growth from one value to the next."""
    return median((later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(values), 2))


@dataclass
class Memory:
    """The memory of an agent, round by round. The agent appends its answers to the file `answers`."""

    pid: int
    answers: Path
    rounds: list[Held] = field(default_factory=list)
    _read: int = 0
    _resident_kb: list[int] = field(default_factory=list)

    def ask(self) -> None:
        """Ask the agent for its memory once more in this round."""
        os.kill(self.pid, signal.SIGUSR1)
        status = Path(f"/proc/{self.pid}/status").read_text()
        self._resident_kb.append(int(status.split("VmRSS:")[1].split()[0]))

    def end_round(self) -> None:
        """Keep the smallest of the answers of this round."""
        lines = self.answers.read_text().splitlines()
        answers = [json.loads(line) for line in lines[self._read :]]
        assert answers, "the agent does not report its memory"
        blocks, malloc_bytes = (min(answer[name] for answer in answers) for name in ("blocks", "malloc_bytes"))
        self.rounds.append(Held(blocks, malloc_bytes, min(self._resident_kb)))
        self._read = len(lines)
        self._resident_kb.clear()

    @property
    def _second_half(self) -> list[Held]:
        return self.rounds[len(self.rounds) // 2 :]

    def growth(self) -> tuple[float, float, int]:
        """Return the growth in the second half: blocks a round, bytes a round, and kB resident in all."""
        blocks, malloc_bytes, resident_kb = zip(*self._second_half, strict=True)
        return slope(blocks), slope(malloc_bytes), resident_kb[-1] - resident_kb[0]

    def looks_flat(self) -> bool:
        """Return whether the growth is clearly below the limits."""
        limits = (MAX_BLOCKS, MAX_BYTES, MAX_RESIDENT_KB)
        return all(value <= FLAT * limit for value, limit in zip(self.growth(), limits, strict=True))

    def check(self) -> None:
        """Raise AssertionError if the memory grows."""
        blocks, malloc_bytes, resident_kb = self.growth()
        assert blocks <= MAX_BLOCKS, f"{blocks:.1f} more objects in each round: {self}"
        assert malloc_bytes <= MAX_BYTES, f"{malloc_bytes:.0f} more bytes in each round: {self}"
        assert resident_kb <= MAX_RESIDENT_KB, f"{resident_kb} kB more are resident: {self}"

    def __str__(self) -> str:
        blocks, malloc_bytes, resident_kb = self.growth()
        return (
            f"{self.rounds[0]} at first, {self._second_half[0]} half-way, {self.rounds[-1]} at the end of "
            f"{len(self.rounds)} rounds; since half-way {blocks:+.1f} blocks and {malloc_bytes:+.0f} bytes a round, "
            f"{resident_kb:+} kB resident"
        )
