# SPDX-License-Identifier: Apache-2.0
"""Checks whether the memory of an agent stays flat.

The resident memory of a process varies too much to show a leak within minutes. The exporting thread allocates and frees
arrays and requests of up to one megabyte in its glibc arena. glibc returns freed memory to the kernel only from the end
of an arena, so the arena may have 4 MB at one moment and 11 MB a minute later. The amount of allocated memory is exact.
The agent reports the allocated memory (soak_agent.py).

In each round, one interface is replaced, one collector is killed, 1500 flows are sent, and there are seven to eleven
exports. The agent reports its memory several times per round. Only the smallest report of a round is used, because the
agent made this report between two exports. The growth is the median of the slopes between all pairs of rounds in the
second half (Theil-Sen estimator). The median is robust against noise, and against a single step, such as a table that
doubles its size. The first half of the rounds is not used, because the memory grows when names, slots and tables are
used for the first time.

A slope is the number of additional blocks per round. Without a leak, the number of blocks per round has a standard
deviation of about 10. The standard deviation of the slope is 1.5 for 8 rounds, and 0.5 for 17 rounds. A leak of one
small object per export causes a slope of 6.8 to 10. If a run has only 8 rounds in its second half, a slope above 2.4
may be a leak or chance. So the run continues until the growth is low (`looks_flat`), but not longer than twice the
planned duration. A slope above 12 at the end is regarded as a leak (`check`).
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

# Per round. Subnets that come and go fill caches of the agent, more and more slowly. In one run of 33 rounds, the first
# half added 12,000 objects and the second half added 74 objects. The slope of these 74 objects was 7.8. A leak of two
# objects per export adds 14 objects per round.
MAX_BLOCKS = 12.0
# A leak in C code of 90 bytes per flow, or of 15 kB per export, exceeds this limit. A table that grows without a leak
# adds only 50 kB.
MAX_BYTES = 131_072.0  # per round
# The limit for the growth in all rounds together. Half of this limit allows for freed memory that glibc keeps. The
# other half allows for holes in the arenas. A leak of 1 kB per flow would add 1.5 MB in each round.
MAX_RESIDENT_KB = 12_288
# If the growth is not above this share of the limits, the memory use is regarded as flat.
FLAT = 0.6


class Held(NamedTuple):
    """An agent's memory in one round: blocks of Python's allocator, bytes allocated by malloc(), and resident kB."""

    blocks: int
    malloc_bytes: int
    resident_kb: int


def slope(values: Sequence[float]) -> float:
    """Return the median slope over all pairs of values: the growth per step."""
    return median((later - earlier) / (j - i) for (i, earlier), (j, later) in combinations(enumerate(values), 2))


@dataclass
class Memory:
    """The memory of an agent in each round. The agent appends its reports to the file `answers`."""

    pid: int
    answers: Path
    rounds: list[Held] = field(default_factory=list)
    _read: int = 0
    _resident_kb: list[int] = field(default_factory=list)

    def ask(self) -> None:
        """Request another memory report from the agent."""
        os.kill(self.pid, signal.SIGUSR1)
        status = Path(f"/proc/{self.pid}/status").read_text()
        self._resident_kb.append(int(status.split("VmRSS:")[1].split()[0]))

    def end_round(self) -> None:
        """Store the smallest values that the agent reported in this round."""
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
        """Return the growth in the second half of the rounds: blocks per round, bytes per round, and kB of resident
        memory in total.
        """
        blocks, malloc_bytes, resident_kb = zip(*self._second_half, strict=True)
        return slope(blocks), slope(malloc_bytes), resident_kb[-1] - resident_kb[0]

    def looks_flat(self) -> bool:
        """Return true if the growth is at most 60 % (FLAT) of each limit."""
        limits = (MAX_BLOCKS, MAX_BYTES, MAX_RESIDENT_KB)
        return all(value <= FLAT * limit for value, limit in zip(self.growth(), limits, strict=True))

    def check(self) -> None:
        """Raise AssertionError if the growth is above the limits."""
        blocks, malloc_bytes, resident_kb = self.growth()
        assert blocks <= MAX_BLOCKS, f"{blocks:.1f} more objects in each round: {self}"
        assert malloc_bytes <= MAX_BYTES, f"{malloc_bytes:.0f} more bytes in each round: {self}"
        assert resident_kb <= MAX_RESIDENT_KB, f"{resident_kb} kB more are resident: {self}"

    def __str__(self) -> str:
        blocks, malloc_bytes, resident_kb = self.growth()
        return (
            f"{self.rounds[0]} at first, {self._second_half[0]} half-way, {self.rounds[-1]} at the end of "
            f"{len(self.rounds)} rounds; since half-way {blocks:+.1f} blocks and {malloc_bytes:+.0f} bytes per round, "
            f"{resident_kb:+} kB resident"
        )
