# SPDX-License-Identifier: Apache-2.0
"""A minute of what `make soak` does for twenty."""

from tests.long import soak


def test_a_minute_of_churn_is_told_once_and_leaves_nothing_behind() -> None:
    soak.run(60)
