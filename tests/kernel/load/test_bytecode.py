# SPDX-License-Identifier: Apache-2.0
"""Tests how the loader moves blocks of compiled instructions.

The kernel runs each program before and after the move.
"""

import ctypes
import os
import random
import struct
from typing import NamedTuple

import pytest

from bench.programs import load
from otel_epping.kernel.load.bytecode import COLD, move_cold_blocks
from otel_epping.replay.replayer import ProgTestRuns

# linux/bpf.h: BPF_JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE, JLT, JLE, JSLT, JSLE
CONDITIONS = (0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xA0, 0xB0, 0xC0, 0xD0)
LENGTHS = range(60, 76)

Step = tuple[int, int, int, int]  # code, registers, offset, immediate

BEGIN: list[Step] = [(0x61, 0x12, 0, 0), (0xB7, 0x00, 0, 0), (0xB7, 0x03, 0, 68)]  # r2 = skb->len; r0 = 0; r3 = 68
MARK: Step = (0xB7, 0x04, 0, COLD)  # r4 = COLD
# r5 = COLD << 32 | COLD: a 64-bit load, which is not a mark; r5 >>= 32; r0 ^= r5
WIDE: list[Step] = [(0x18, 0x05, 0, COLD), (0, 0, 0, COLD), (0x77, 0x05, 0, 32), (0xAF, 0x50, 0, 0)]
EXIT, GOTO = 0x95, 0x05


class Block(NamedTuple):
    """The instructions of a block, and how the block ends: with a jump, with an exit, or without either (None).

    Without a jump or an exit, the program continues with the next block.
    """

    body: list[Step]
    ending: Step | None = None
    to: int = 0


def assembled(blocks: list[Block]) -> bytes:
    begins = [0]
    for block in blocks:
        begins.append(begins[-1] + len(block.body) + (block.ending is not None))
    steps: list[Step] = []
    for block in blocks:
        steps += block.body
        if block.ending:
            code, registers, _, immediate = block.ending
            steps.append((code, registers, begins[block.to] - len(steps) - 1 if code != EXIT else 0, immediate))
    return b"".join(struct.pack("=BBhi", *step) for step in steps)


def recorded(number: int) -> list[Step]:
    """Return instructions for r0 = r0 * 3 + number, in 32 bits.

    With these instructions, each path through a program gives a different result.
    """
    return [(0x24, 0x00, 0, 3), (0x04, 0x00, 0, number)]


def any_program(seed: int) -> bytes:
    """Return a random program. Each block may jump to a later block or exit. Some blocks are rare.

    Some blocks load a 64-bit number.
    """
    chance = random.Random(seed)
    count = chance.randrange(3, 40)
    blocks, reached = [], set[int]()
    for number in range(count):
        body = recorded(number + 1) + (WIDE if chance.random() < 0.2 else [])
        if number and chance.random() < 0.3:
            body.insert(chance.choice((0, len(body))), MARK)
        ending: Step | None = None
        # The kernel rejects programs with unreachable instructions. So a block may end with "goto" or "exit" only if an
        # earlier block jumps to the next block.
        may_stop = number == count - 1 or number + 1 in reached
        kind = chance.choice(("if", "if", "fall", *(("goto", "exit") if may_stop else ())))
        to = chance.randrange(number + 1, count) if number < count - 1 else 0
        if number == count - 1 or kind == "exit":
            ending = (EXIT, 0, 0, 0)
        elif kind == "goto":
            ending = (GOTO, 0, 0, 0)
        elif kind == "if":
            by_register = chance.random() < 0.5  # compare r2 with r3, or with a number
            code = chance.choice((5, 6)) | chance.choice(CONDITIONS) | 8 * by_register
            ending = (code, 0x32 if by_register else 0x02, 0, 0 if by_register else chance.choice(LENGTHS))
        if ending and ending[0] != EXIT:
            reached.add(to)
        blocks.append(Block(body, ending, to))
    return assembled([Block(BEGIN), *(block._replace(to=block.to + 1) for block in blocks)])


def results(code: bytes) -> list[int]:
    """Return the results of the program, one for each packet length in LENGTHS."""
    fd, data = load("arranged", code), ctypes.create_string_buffer(bytes(12) + b"\x08\x00", max(LENGTHS))
    runs = ProgTestRuns(fd, 1)
    runs.options["data_in"] = ctypes.addressof(data)
    returned = []
    for length in LENGTHS:
        runs.options["data_size_in"], runs.options["data_size_out"] = length, 0
        runs.run()
        returned.append(int(runs.options["retval"][0]))
    os.close(fd)
    return returned


def test_a_program_with_moved_blocks_returns_the_same() -> None:
    seen = set()
    for seed in range(300):
        code = any_program(seed)
        before = results(code)
        seen.update(before)
        assert results(move_cold_blocks(code)) == before, f"program {seed}"
    assert len(seen) > 300  # the programs return many different results


def test_rare_blocks_come_last_and_their_mark_is_removed() -> None:
    rare, joint = recorded(2), recorded(3)
    program = [
        Block(BEGIN + recorded(1), (0x15, 0x02, 0, 60), 2),  # if r2 == 60 goto
        Block([], (GOTO, 0, 0, 0), 4),
        Block([MARK, *rare]),
        Block(joint, (GOTO, 0, 0, 0), 4),  # only a rare block jumps to this block
        Block(recorded(4), (EXIT, 0, 0, 0)),
    ]
    expected = [
        Block(BEGIN + recorded(1), (0x15, 0x02, 0, 60), 2),
        Block(recorded(4), (EXIT, 0, 0, 0)),
        Block(rare),
        Block(joint, (GOTO, 0, 0, 0), 1),
    ]
    made, wanted = move_cold_blocks(assembled(program)), assembled(expected)
    assert results(made) == results(wanted) == results(assembled(program))
    # The second block, which contains only a jump, stays in its place.
    steps = [made[at : at + 8] for at in range(0, len(made), 8)]
    places = [steps.index(struct.pack("=BBhi", *block[-1])) for block in (recorded(1), recorded(4), rare, joint)]
    assert places == sorted(places)
    assert struct.pack("=BBhi", *MARK) not in steps


@pytest.mark.parametrize("code", [CONDITIONS[0] | 5, CONDITIONS[3] | 5])
def test_a_jump_over_a_rare_block_is_inverted_where_possible(code: int) -> None:
    """The program is: if r2 OP 60 goto common; rare block; common block.

    The loader inverts the jump and moves the rare block. BPF_JSET has no inverse, so a jump with BPF_JSET stays.
    """
    program = [
        Block(BEGIN, (code, 0x02, 0, 60), 2),
        Block([MARK, *recorded(1)], (EXIT, 0, 0, 0)),
        Block(recorded(2), (EXIT, 0, 0, 0)),
    ]
    before, after = assembled(program), move_cold_blocks(assembled(program))
    assert results(before) == results(after)
    assert len(after) == len(before) - 8 + 8 * (code == CONDITIONS[3] | 5)
