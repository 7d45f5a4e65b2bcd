# SPDX-License-Identifier: Apache-2.0
"""Tests that the counts of interfaces, and their sum, are exported once, with random readings and failed exports."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.kernel.reading import Gone, Reading
from otel_epping.series.interface_tracker import ALL_INTERFACES, InterfaceTracker
from tests.support.synthetic_kernel import INTERFACE_COUNTERS, STARTED_NS

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

COUNTERS = INTERFACE_COUNTERS.itemsize // 8
# The elements of a step: the interfaces that count a packet, whether another interface appears, whether the oldest
# interface is removed after its counts are delivered, and whether the export arrives.
STEPS = st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=8), st.booleans(), st.booleans(), st.booleans()))


def reading_of(counts: dict[int, int], time_ns: int, gone: frozenset[Gone]) -> Reading:
    """Return a reading in which the first counter of each interface has the given value."""
    interfaces = np.zeros(len(counts), INTERFACE_COUNTERS)
    interfaces["received"]["packets"][:, 0] = list(counts.values())
    values: dict[str, Any] = dict.fromkeys(Reading.__dataclass_fields__) | {
        "time_ns": time_ns,
        "names": {identifier: f"eth{identifier}" for identifier in counts},
        "interfaces": interfaces,
        "interfaces_since_ns": np.full(len(counts), STARTED_NS),
        "gone": gone,
    }
    return Reading(**values)


@settings(deadline=None)
@given(STEPS, st.booleans())
def test_every_packet_is_exported_once(steps: Any, delta: bool) -> None:
    tracker = InterfaceTracker(delta=delta, started_ns=STARTED_NS, counters=COUNTERS)
    counts, received, packets, now_ns = {0: 0}, dict[int, int](), 0, STARTED_NS
    gone: frozenset[Gone] = frozenset()
    identifiers = itertools.count(1)  # not used again
    for counted, appears, disappears, arrives in steps:
        for each in tracker.delivered(set()):
            del counts[each.identifier]
            gone = frozenset()
        if appears:
            counts[next(identifiers)] = 0
        for place in counted:
            identifier = [*counts][place % len(counts)]
            if identifier not in {each.identifier for each in gone}:
                counts[identifier] += 1
                packets += 1
        if disappears and not gone and len(counts) > 1:
            gone = frozenset({Gone([*counts][1], now_ns)})
        now_ns += 10
        tracker.update(reading_of(counts, now_ns, gone))
        pending, start_ns = tracker.pending()
        assert [*tracker.names] == [*counts, ALL_INTERFACES]
        assert (start_ns < now_ns).all()
        if arrives:
            tracker.acknowledge()
            for identifier, value in zip(tracker.names, pending[:, 0].tolist(), strict=True):
                received[identifier] = received.get(identifier, 0) * delta + value
            assert received[ALL_INTERFACES] == packets == sum(received.values()) - packets
