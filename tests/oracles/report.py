# SPDX-License-Identifier: Apache-2.0
"""The result of a check: counts by rule, and unexplained differences."""

from collections import Counter
from dataclasses import dataclass, field

# The maximum number of errors that are printed. Further errors usually have the same cause.
SHOWN = 20


@dataclass
class Report:
    """The result of one check of one capture. The check holds if there is no error."""

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
