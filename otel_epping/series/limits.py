# SPDX-License-Identifier: Apache-2.0
"""Limits on the number of exported series, so that an agent that runs for years has a bounded number of series."""

from dataclasses import dataclass

from otel_epping.errors import EppingError

RANGES: dict[str, tuple[int, int]] = {
    "max_series": (1, 4_000_000),
    "min_samples": (0, 10**9),
}


@dataclass(frozen=True)
class Limits:
    """Limits on series. Raises EppingError for a value out of range.

    max_series   maximum number of subnets and covering prefixes that have series; None: the number of slots
    min_samples  number of RTTs that a subnet must have to be exported individually
    roll_up      if true, subnets beyond a limit are exported in covering prefixes, not on the overflow point

    Named networks and groups (Grouping) count like subnets, but they have no covering prefixes.

    By default, the 500 busiest subnets and covering prefixes have series. Limits(max_series=None) exports all subnets
    individually.
    """

    max_series: int | None = 500
    min_samples: int = 0
    roll_up: bool = True

    def __post_init__(self) -> None:
        for name, (least, greatest) in RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= greatest:
                raise EppingError(f"{name} is {value}: it must be from {least} to {greatest}")
