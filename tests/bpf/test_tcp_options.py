# SPDX-License-Identifier: Apache-2.0
"""Tests the TCP timestamp option at every offset. Also tests lists of TCP options that have no valid timestamp
option."""

import random
from collections.abc import Callable

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from otel_epping.kernel.config import EppingConfig
from tests.support.packets import (
    EOL,
    MSS,
    NOP,
    SACK_PERMITTED,
    WINDOW_SCALE,
    Conversation,
    fed,
    plain,
    set_byte,
    timestamp,
)
from tests.support.prog_test_run import MS, Bench

pytestmark = pytest.mark.parallel


def padded(options: bytes, fill: bytes = EOL) -> bytes:
    return options + fill * (-len(options) % 4)


@pytest.mark.parametrize("version", [4, 6])
def test_the_timestamp_is_found_at_every_place(bench: Bench, version: int) -> None:
    conversation = Conversation(bench.flow(version))
    for nops in range(31):
        assert conversation.rtt(plain, lambda *values: padded(nops * NOP + timestamp(*values))) == 5 * MS, nops  # noqa: B023


@pytest.mark.parametrize("length", range(2, 31))
def test_the_timestamp_is_found_after_an_option_of_every_length(bench: Bench, length: int) -> None:
    conversation = Conversation(bench.flow())
    for kind in (2, 3, 4, 5, 9, 19, 30, 34, 253, 255):
        option = bytes([kind, length]) + b"\x08" * (length - 2)  # resembles the start of a timestamp option
        assert conversation.rtt(plain, lambda *values: padded(option + timestamp(*values))) == 5 * MS, kind  # noqa: B023


def test_the_timestamp_is_found_among_the_options_of_real_stacks(bench: Bench) -> None:
    sack = b"\x05\x0a" + bytes(range(8))
    conversation = Conversation(bench.flow())
    forms: list[Callable[[int, int], bytes]] = [
        lambda *values: MSS + SACK_PERMITTED + timestamp(*values) + NOP + WINDOW_SCALE,
        lambda *values: MSS + NOP + WINDOW_SCALE + 2 * NOP + timestamp(*values) + SACK_PERMITTED + 2 * EOL,
        lambda *values: 2 * NOP + timestamp(*values) + 2 * NOP + sack,
        lambda *values: 2 * NOP + sack + 2 * NOP + timestamp(*values),
        lambda *values: timestamp(*values) + 2 * EOL,
    ]
    for form in forms:
        options = form(77, 88)
        header = TCP(bytes(TCP(dataofs=5 + len(options) // 4) / Raw(options)))
        assert dict(header.options)["Timestamp"] == (77, 88)
        assert conversation.rtt(plain, form) == 5 * MS


BROKEN = {
    "length 0": b"\x02\x00",
    "length 1": b"\x02\x01",
    "end of options": EOL,
    "beyond the end": b"\x02\x29",
    "far beyond the end": b"\x02\xff",
    "a short timestamp": b"\x08\x09",
    "a long timestamp": b"\x08\x0b",
    "a timestamp of length 0": b"\x08\x00",
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("nops", [0, 1, 2, 20])
def test_a_broken_option_list_has_no_timestamp(bench: Bench, what: str, nops: int) -> None:
    conversation = Conversation(bench.flow())
    broken = conversation.segment(0, padded(nops * NOP + BROKEN[what] + timestamp(1, 0)))
    assert fed(bench, broken) == ("tcp", 1, len(broken))
    assert conversation.rtt(plain, lambda *values: padded(nops * NOP + BROKEN[what] + timestamp(*values))) is None
    whole = Conversation(bench.flow())
    assert whole.rtt(plain, lambda *values: padded(nops * NOP + timestamp(*values))) == 5 * MS


def test_a_timestamp_outside_of_the_header_is_ignored(bench: Bench) -> None:
    """The TCP header ends before the timestamp (see the data offset), so the bytes of the timestamp are payload."""
    conversation = Conversation(bench.flow())

    def cut(frame: bytes) -> bytes:
        return set_byte(frame, 46, frame[46] - 0x10)

    for nops in range(31):
        options = padded(nops * NOP + timestamp(1, 0), NOP)
        fits = nops + 10 <= len(options) - 4
        found = conversation.rtt(cut, lambda *values: padded(nops * NOP + timestamp(*values), NOP))  # noqa: B023
        assert (found is not None) == fits


ENDS = (EOL, b"\x02\x00", b"\x02\x01")


def test_random_option_lists(bench_of: Callable[[EppingConfig], Bench]) -> None:
    """The test builds each list, so it knows the correct result: the first timestamp counts, unless the list ends
    before this timestamp."""
    methods = ("tcp_timestamp",)  # no other method may measure the flow
    bench = bench_of(EppingConfig(packet_clock=True, sample_interval_ns=0, methods=methods))
    conversation = Conversation(bench.flow())
    chance = random.Random(6)
    found = 0
    for _ in range(2000):
        pieces: list[bytes | None] = []  # None stands for the timestamp
        size = 0
        while True:
            length = chance.randrange(2, 20)
            unknown = bytes([chance.choice((5, 9, 253)), length]) + chance.randbytes(length - 2)
            piece = chance.choice(
                [NOP, NOP, MSS, WINDOW_SCALE, SACK_PERMITTED, None, None, unknown, chance.choice(ENDS)]
            )
            if size + len(piece or timestamp(0, 0)) > 40:
                break
            size += len(piece or timestamp(0, 0))
            pieces.append(piece)
        before = next((place for place, piece in enumerate(pieces) if piece is None), None)
        ends = before is None or any(piece in ENDS for piece in pieces[:before])

        def options(*values: int) -> bytes:
            return padded(b"".join(timestamp(*values) if piece is None else piece for piece in pieces))  # noqa: B023

        assert conversation.rtt(plain, options) == (None if ends else 5 * MS), options(0, 0).hex()
        found += not ends
    assert 500 < found < 1900
