# SPDX-License-Identifier: Apache-2.0
"""Tests the pseudonyms of the option --redact."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.networks.pseudonyms import Pseudonyms, unchanged

pytestmark = [pytest.mark.unit, pytest.mark.parallel]

SHOWN = st.lists(st.tuples(st.sampled_from(["host", "subnet", "network", "AS"]), st.text(max_size=3)))


def test_the_numbers_follow_the_order_of_first_use() -> None:
    show = Pseudonyms()
    assert show("host", "203.0.113.9") == "host-1"
    assert show("host", "10.0.0.1") == "host-2"
    assert show("subnet", "10.0.0.0/24") == "subnet-1"
    assert show("host", "203.0.113.9") == "host-1"
    assert show("host", "") == "host-3"
    assert unchanged("host", "10.0.0.1") == "10.0.0.1"


@given(SHOWN)
def test_equal_texts_have_equal_pseudonyms_and_different_texts_different_pseudonyms(
    shown: list[tuple[str, str]],
) -> None:
    show = Pseudonyms()
    pseudonyms = [show(*each) for each in shown]
    assert [show(*each) for each in shown] == pseudonyms
    assert len(set(pseudonyms)) == len(set(shown))
    # The pseudonyms depend only on the order in which texts are repeated, and not on the texts.
    other = Pseudonyms()
    assert [other(kind, f"another {text}") for kind, text in shown] == pseudonyms
