# SPDX-License-Identifier: Apache-2.0
"""What a series says about its networks in addition to a prefix: name, tags, AS number, AS organisation and country."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Indexes

# Numbers of details that are no longer in use are freed when more than this many numbers are in use.
_LEAST_LIMIT = 1024


class Details(NamedTuple):
    """The details of a series. A value that is unknown, or that is not exported, is None or ().

    name             the name of a named network
    tags             (tag, value) for each exported tag of a named network
    as_number        AS number
    as_organization  name of the organisation that holds the AS
    country          ISO 3166-1 alpha-2 code
    """

    name: str | None = None
    tags: tuple[tuple[str, str], ...] = ()
    as_number: int | None = None
    as_organization: str | None = None
    country: str | None = None

    def only(self, fields: Collection[str]) -> "Details":
        """Returns the details without the fields that are not in `fields`."""
        return Details(**{field: value for field, value in self._asdict().items() if field in fields})


NO_DETAILS = Details()


class DetailsNumbers:
    """Gives numbers to details, so that the key of a series has a fixed length. Equal details have the same number.

    NO_DETAILS has the number 0. If `is_crowded` is true, call keep().
    """

    def __init__(self) -> None:
        self._numbers: dict[Details, int] = {NO_DETAILS: 0}
        self._details = [NO_DETAILS]
        self._free: list[int] = []
        self._limit = _LEAST_LIMIT

    def __len__(self) -> int:
        """The count of the numbers in use."""
        return len(self._numbers)

    def __getitem__(self, number: int) -> Details:
        return self._details[number]

    def find(self, details: Details) -> int:
        """Returns the number that stands for the details. New details get a new number."""
        if (known := self._numbers.get(details)) is not None:
            return known
        if self._free:
            number = self._free.pop()
            self._details[number] = details
        else:
            number = len(self._details)
            self._details.append(details)
        self._numbers[details] = number
        return number

    def only(self, numbers: Indexes, fields: Collection[str]) -> Indexes:
        """For each of `numbers`, returns the number of the same details with only the fields in `fields`."""
        if len(fields) == len(Details._fields):
            return numbers
        distinct, which = np.unique(numbers, return_inverse=True)
        return np.array([self.find(self[number].only(fields)) for number in distinct.tolist()], numbers.dtype)[which]

    @property
    def is_crowded(self) -> bool:
        """True if twice as many numbers are in use as after the latest call of keep()."""
        return len(self) > self._limit

    def keep(self, used: Indexes) -> None:
        """Frees all numbers that are not in `used`. A freed number may be given to other details."""
        kept = {0, *np.unique(used).tolist()}
        for details, number in list(self._numbers.items()):
            if number not in kept:
                del self._numbers[details]
                self._details[number] = NO_DETAILS
                self._free.append(number)
        self._limit = max(_LEAST_LIMIT, 2 * len(self))
