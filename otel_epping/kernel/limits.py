# SPDX-License-Identifier: Apache-2.0
"""How many subnets are told apart, and for how long: bounds on what an agent that runs for years keeps and exports."""

from dataclasses import dataclass

from otel_epping.errors import EppingError

RANGES: dict[str, tuple[int, int]] = {
    "idle_timeout_ns": (0, 366 * 24 * 3600 * 10**9),
    "max_series": (1, 4_000_000),
    "min_samples": (0, 10**9),
}


@dataclass(frozen=True)
class Limits:
    """Bounds; each is off by default. Raises EppingError for a value out of range.

    idle_timeout_ns  a subnet of which nothing was counted for so long gives its slots back; 0: never
    max_series       subnets told apart in an export; None: as many as there are slots
    min_samples      RTTs that a subnet must have before it is told apart
    roll_up          subnets beyond these bounds are told in covering prefixes, not on the overflow point
    """

    idle_timeout_ns: int = 0
    max_series: int | None = None
    min_samples: int = 0
    roll_up: bool = False

    def __post_init__(self) -> None:
        for name, (least, greatest) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= greatest:
                raise EppingError(f"{name} is {value}: it must be from {least} to {greatest}")
        if self.roll_up and self.max_series is None:
            raise EppingError("roll_up needs max_series: how many subnets may be told apart")

    @property
    def any(self) -> bool:
        """Whether there is any bound but that of slots."""
        return self != Limits()
