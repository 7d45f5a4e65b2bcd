# SPDX-License-Identifier: Apache-2.0
"""Compares docs/top.md with the columns, the keys and the filter words."""

from pathlib import Path

import pytest

from otel_epping.top.columns import COLUMNS
from otel_epping.top.filter import TEXT_WORDS
from otel_epping.top.pages import KEYS

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

PAGE = (Path(__file__).parents[2] / "docs" / "top.md").read_text()


def test_the_page_has_all_columns_keys_and_words() -> None:
    for column in COLUMNS:
        assert f"| {column.heading} | `{column.key}` | {column.help} |" in PAGE
    for keys, meaning in KEYS:
        assert f"| {keys} | {meaning} |" in PAGE
    for word, (meaning, _) in TEXT_WORDS.items():
        assert f"| `{word}:" in PAGE
        assert f"` | {meaning} |" in PAGE
