# SPDX-License-Identifier: Apache-2.0
"""Compares the choice of slots to reclaim with a simple implementation."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_epping.kernel.read.evictions import victims

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

Slot = tuple[int, int]  # covering prefix, time of the last change


def chosen(slots: list[Slot], number: int) -> list[Slot]:
    covering = np.array([covering for covering, _ in slots], np.int64)
    changed_ns = np.array([changed_ns for _, changed_ns in slots], np.int64)
    found = victims(covering, changed_ns, number).tolist()
    assert len(set(found)) == len(found) == number
    return [slots[index] for index in found]


def naive(slots: list[Slot], number: int) -> list[Slot]:
    """Reclaim slots one by one. Each time, choose the quietest slot of a covering prefix that has the most slots."""
    left = defaultdict(list)
    for covering, changed_ns in sorted(slots, reverse=True):
        left[covering].append(changed_ns)  # the quietest slot is the last one
    found = []
    for _ in range(number):
        most = max(map(len, left.values()))
        covering = min((each for each in left if len(left[each]) == most), key=lambda each: left[each][-1])
        found.append((covering, left[covering].pop()))
    return found


SLOTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-(2**62), 2**62)), unique_by=lambda slot: slot[1], max_size=40
)


@given(SLOTS, st.data())
def test_victims_are_those_of_a_simple_implementation(slots: list[Slot], data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(slots)))
    assert chosen(slots, number) == naive(slots, number)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=40), st.data())
def test_each_covering_prefix_keeps_its_fair_share(slots: list[Slot], data: st.DataObject) -> None:
    """Several slots were last changed at the same time. If covering prefixes lose slots, the numbers of slots that they
    keep differ by at most 1."""
    number = data.draw(st.integers(0, len(slots)))
    before = Counter(covering for covering, _ in slots)
    gone = chosen(slots, number)
    lost = Counter(covering for covering, _ in gone)
    kept = before - lost
    shares = [kept[covering] for covering in lost]
    assert not shares or max(shares) <= min(shares) + 1
    assert not shares or all(kept[covering] <= min(shares) + 1 for covering in before)
    # Of the slots of one covering prefix, the quietest slots are reclaimed.
    stay = list((Counter(slots) - Counter(gone)).elements())
    for covering in lost:
        latest_gone = max(changed for each, changed in gone if each == covering)
        assert all(changed >= latest_gone for each, changed in stay if each == covering)


def test_an_attacker_with_one_large_network_loses_only_the_attackers_slots() -> None:
    quiet = [(covering, covering) for covering in range(10)]
    attack = [(99, 1000 + number) for number in range(50)]
    assert chosen(quiet + attack, 40) == attack[:40]
