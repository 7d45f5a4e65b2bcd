# SPDX-License-Identifier: Apache-2.0
"""Tests conversations in which hosts or middleboxes behave unusually. Every measured RTT must be correct, and nearly
all RTTs must be measured."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracles.ours import Ours
from tests.support.oddities import ODDITIES

pytestmark = pytest.mark.parallel


# The permitted number of missing RTTs. RTTs are missing until the program notices that timestamps do not work. The
# first missing RTT is that of the exchange in which the timestamps stop. More RTTs are missing until the TSval has been
# constant for TSVAL_STALLED_NS (bpf/tcp_method_choice.h). Many RTTs are missing if each exchange starts directly after
# the previous exchange.
MOST_MISSED = 2
MANY_MISSED = {"requests follow acknowledgements": 9}
TOLERANCE_NS = 2_000


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    ours = Ours()
    yield ours
    ours.close()


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", ODDITIES)
def test_an_odd_conversation_is_measured(name: str, version: int, ours: Ours, tmp_path: Path) -> None:
    talk = ODDITIES[name](version=version)
    observed = ours.run(talk.transcript.write(tmp_path))

    rtts_ms = (talk.near_ms, talk.far_ms)
    measured = [0, 0]
    for sample in observed.samples:
        end = talk.transcript.sender(sample.frame)
        assert sample.rtt_ns == pytest.approx(rtts_ms[end] * 1e6, abs=TOLERANCE_NS), sample
        measured[end] += 1
    for end in (0, 1):
        expected = sum(count for (_, whose), count in talk.rtts.items() if whose == end)
        assert expected - MANY_MISSED.get(name, MOST_MISSED) <= measured[end] <= expected
    assert (
        sum(sample.method == "tcp_handshake" for sample in observed.samples)
        == talk.rtts["tcp_handshake", 0] + (talk.rtts["tcp_handshake", 1])
    )
    assert len(observed.kinds["retransmitted"]) == talk.retransmitted
    assert observed.duplicates == talk.copies
    assert observed.account["begun"] == sum(count for name, count in observed.account.items() if name != "begun")
    assert observed.account["evicted"] == 0
