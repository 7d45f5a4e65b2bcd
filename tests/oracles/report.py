# SPDX-License-Identifier: Apache-2.0
"""What a checker found: a tally by rule, and what it cannot explain."""

from collections import Counter
from dataclasses import dataclass, field

# More errors than these are one error, shown often enough.
SHOWN = 20


@dataclass
class Report:
    """The outcome of one check of one capture; it holds if there is no error."""

    title: str
    tally: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.errors

    def __str__(self) -> str:
        lines = [f"{self.title}: {'holds' if self.holds else f'{len(self.errors)} UNEXPLAINED'}"]
        lines += [f"  {count:7}  {what}" for what, count in self.tally.items()]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  UNEXPLAINED: {error}" for error in self.errors[:SHOWN]]
        if len(self.errors) > SHOWN:
            lines.append(f"  ... and {len(self.errors) - SHOWN} more")
        return "\n".join(lines)
