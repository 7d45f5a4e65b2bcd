# SPDX-License-Identifier: Apache-2.0
"""Runs the soak test for 100 seconds, or for up to twice as long if the first result is not clear."""

import pytest

from tests.long import soak


@pytest.mark.timeout(400)
def test_packets_are_exported_once_under_churn_without_a_leak() -> None:
    soak.run(100)
