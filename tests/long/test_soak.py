# SPDX-License-Identifier: Apache-2.0
"""Runs `make soak` for 100 seconds, or for twice as long if the first answer is not clear."""

import pytest

from tests.long import soak


@pytest.mark.timeout(400)
def test_churn_is_exported_once_and_leaves_nothing_behind() -> None:
    soak.run(100)
