# SPDX-License-Identifier: Apache-2.0
"""Whether an agent's memory is flat.

Resident memory can't tell in a minute. What moves in it is glibc's arena of the thread that exports: arrays and
requests of up to a megabyte come and go there, and what was freed is kept, until it happens to lie at the end. So the
arena has 4 MB, and a minute later 11. What is held and not free is exact, and so is asked for (soak_agent.py).

It is asked for in each round of churn, and the least of the answers counts, which is that between two exports. How much
it grows a round is the median of the slopes between any two rounds of the second half (Theil and Sen): neither chance
nor something that comes once, as a table that is made larger, counts for much. In the first half names are heard for
the first time, slots come into use and tables fill up.
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

# Seven to eleven exports make a round, an interface that goes and comes, and 1500 flows. Without a leak up to 3 blocks
# and 50 kB more are held, as tables still fill up; with one small object left by each export 7 to 10 blocks. The second
# is exceeded by 90 bytes that C code leaves with each flow, or 15 kB with each export.
MOST_BLOCKS = 5.0
MOST_BYTES = 131_072.0
# What glibc keeps, doubled: for what only makes holes in it. 1 kB left by each flow are 1.5 MB a round.
MOST_RESIDENT_KB = 12_288


class Held(NamedTuple):
    """What is held in a round: Python's blocks, bytes of malloc(), and what is resident of it and all else, kB."""

    blocks: int
    malloc_bytes: int
    resident_kb: int


def slope(values: Sequence[float]) -> float:
    """By how much values grow, from each to the next."""
    return median((later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(values), 2))


@dataclass
class Memory:
    """An agent's memory, round by round. `answers` is where it says what it holds."""

    pid: int
    answers: Path
    rounds: list[Held] = field(default_factory=list)
    _read: int = 0
    _resident_kb: list[int] = field(default_factory=list)

    def ask(self) -> None:
        """Asks the agent once more in this round."""
        os.kill(self.pid, signal.SIGUSR1)
        status = Path(f"/proc/{self.pid}/status").read_text()
        self._resident_kb.append(int(status.split("VmRSS:")[1].split()[0]))

    def end_round(self) -> None:
        """Takes the least of what it said."""
        said = self.answers.read_text().splitlines()
        answers = [json.loads(line) for line in said[self._read :]]
        assert answers, "the agent doesn't say what it holds"
        blocks, malloc_bytes = (min(answer[name] for answer in answers) for name in ("blocks", "malloc_bytes"))
        self.rounds.append(Held(blocks, malloc_bytes, min(self._resident_kb)))
        self._read = len(said)
        self._resident_kb.clear()

    @property
    def _second_half(self) -> list[Held]:
        return self.rounds[len(self.rounds) // 2 :]

    def growth(self) -> tuple[float, float, int]:
        """Blocks and bytes a round, and kB resident in all, of the second half."""
        blocks, malloc_bytes, resident_kb = zip(*self._second_half, strict=True)
        return slope(blocks), slope(malloc_bytes), resident_kb[-1] - resident_kb[0]

    def check(self) -> None:
        """Raises AssertionError if it isn't flat."""
        blocks, malloc_bytes, resident_kb = self.growth()
        assert blocks <= MOST_BLOCKS, f"{blocks:.1f} objects more in each round: {self}"
        assert malloc_bytes <= MOST_BYTES, f"{malloc_bytes:.0f} bytes more in each round: {self}"
        assert resident_kb <= MOST_RESIDENT_KB, f"{resident_kb} kB more are resident: {self}"

    def __str__(self) -> str:
        blocks, malloc_bytes, resident_kb = self.growth()
        return (
            f"{self.rounds[0]} at first, {self._second_half[0]} half-way, {self.rounds[-1]} at the end of "
            f"{len(self.rounds)} rounds; since half-way {blocks:+.1f} blocks, {malloc_bytes:+.0f} bytes a round, "
            f"{resident_kb:+} kB resident"
        )
