# SPDX-License-Identifier: Apache-2.0
"""Tests that all rows in use are counted, although there may be free rows between them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from otel_epping.kernel.read.rows_in_use import RowsInUse

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ROWS = 5000


def test_rows_in_use_include_skipped_and_freed_rows() -> None:
    table = np.zeros(ROWS, [("state", np.uint64)])
    array: Any = SimpleNamespace(length=ROWS, rows=lambda begin, end: table[begin:end])
    rows = RowsInUse(array, "state", 2)
    assert rows.count() == 2
    table["state"][5] = 1
    assert rows.count() == 6
    table["state"][5] = 0
    assert rows.count() == 6, "a freed row may be used again"
    table["state"][1000:3000] = 1
    table["state"][1500:2400] = 0
    assert rows.count() == 3000
    table["state"][-1] = 1
    assert rows.count() == 3000, "the rows after this many free rows are not searched"
    table["state"][4000] = 1
    assert rows.count() == ROWS
    assert rows.count() == ROWS
