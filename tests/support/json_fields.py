# SPDX-License-Identifier: Apache-2.0
"""Compares JSON data before and after another program has read and written the data."""

from typing import Any


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Returns the fields that are missing or different after a round trip."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            name
            for key, value in before.items()
            for name in (lost(value, after[key], f"{path}/{key}") if key in after else [f"{path}/{key}"])
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [name for each in zip(before, after, strict=True) for name in lost(*each, f"{path}[]")]
    return [] if before == after else [path]
