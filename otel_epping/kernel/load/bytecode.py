# SPDX-License-Identifier: Apache-2.0
"""What the loader does to the compiled instructions before the kernel verifies them.

`arranged()` moves cold code to the end of the program. After the network stack has run, the program's code is no longer
in the CPU's caches, and a packet pays for each cache line of code: so the code of most packets should be adjacent. The
compiler keeps blocks in the order of the source, and none of the passes that BCC runs predicts branches. So the source
marks with cold() (bpf/compiler.h) where cold code begins. Code that is reached only from such places is cold, too.

`linked()` fills in what the compiler can't know: which direction the program is for (DIRECTION), and where the maps are
whose rows it reaches without a look-up (bpf/direct_value.h).

Instructions are those of linux/bpf.h: 8 bytes, or 16 for a load of 64 bits; a jump's offset counts from behind it in
steps of 8 bytes.
"""

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

# Numbers that stand nowhere else, which bpf/ is compiled with.
DIRECTION, DIRECT, COLD = 0x65707069, 0x64697265, 0x72617265

# register = 32 bits (BPF_ALU64 | BPF_MOV | BPF_K)
_MOVE = 0xB7
# register = 64 bits (BPF_LD | BPF_IMM | BPF_DW): the upper half is in the second 8 bytes. With 2 (BPF_PSEUDO_MAP_VALUE)
# beside the register it is the address of a map's value: the lower half is the map's descriptor, the upper one where in
# the value.
_LOAD, _MAP_VALUE = 0x18, 2 << 4 if sys.byteorder == "little" else 2
_GOTO, _CALL, _EXIT = 0x05, 0x85, 0x95
_LONG_GOTO, _FUNCTION = 0x06, 1 << 4 if sys.byteorder == "little" else 1  # of BPF_PSEUDO_CALL, beside the register
_JUMP_CLASSES = (5, 6)  # BPF_JMP, BPF_JMP32
# BPF_JEQ and BPF_JNE, BPF_JGT and BPF_JLE, BPF_JGE and BPF_JLT, and the latter four signed. BPF_JSET has no opposite.
_OPPOSITES = ((0x10, 0x50), (0x20, 0xB0), (0x30, 0xA0), (0x60, 0xD0), (0x70, 0xC0))
_OPPOSITE = {a: b for pair in _OPPOSITES for a, b in (pair, pair[::-1])}

_STEP = struct.Struct("=BBhi")
_Step = tuple[int, int, int, int]  # code, registers, offset, immediate


def _places(code: bytes) -> Iterator[tuple[int, int]]:
    """Where each instruction begins and ends, in steps of 8 bytes."""
    place = 0
    while place * _STEP.size < len(code):
        end = place + (2 if code[place * _STEP.size] == _LOAD else 1)
        yield place, end
        place = end


def _is_jump(operation: int) -> bool:
    return operation & 7 in _JUMP_CLASSES and operation not in (_CALL, _EXIT)


class _Block(NamedTuple):
    """Instructions that are always run together, by their places, and the blocks that may follow, by their first."""

    places: list[int]
    jumps_to: int | None
    falls_to: int | None

    @property
    def ways(self) -> list[int]:
        return [to for to in (self.jumps_to, self.falls_to) if to is not None]


def _blocks(steps: list[_Step], ends: dict[int, int]) -> dict[int, _Block]:
    """The program in blocks, by the places of their first instructions."""
    # BCC compiles for the BPF of years ago, which had neither functions nor jumps of 32 bits.
    assert not any(steps[place][0] == _LONG_GOTO or steps[place][:2] == (_CALL, _FUNCTION) for place in ends)
    jumps = {place: end + steps[place][2] for place, end in ends.items() if _is_jump(steps[place][0])}
    lasts = {place for place in ends if place in jumps or steps[place][0] == _EXIT}
    starts = {0, *jumps.values(), *(ends[place] for place in lasts)}
    lasts |= {place for place, end in ends.items() if end in starts}
    blocks, places = {}, list[int]()
    for place, end in ends.items():
        places.append(place)
        if place in lasts:
            falls_to = None if steps[place][0] in (_GOTO, _EXIT) else end
            blocks[places[0]] = _Block(places, jumps.get(place), falls_to)
            places = []
    return blocks


def move_cold_blocks(code: bytes) -> bytes:
    """The same program without its marks, and what is rare behind all else."""
    steps: list[_Step] = list(_STEP.iter_unpack(code))
    ends = dict(_places(code))
    blocks = _blocks(steps, ends)
    marks = {place for place in ends if steps[place][0] == _MOVE and steps[place][3] == COLD}
    usual: set[int] = set()
    waiting = [0]
    while waiting:
        start = waiting.pop()
        if start not in usual and marks.isdisjoint(blocks[start].places):
            usual.add(start)
            waiting += blocks[start].ways

    # Whole steps; and jumps, with where to in the place of the offset, which is known once all have their places.
    order = sorted(blocks, key=lambda start: (start not in usual, start))
    made: list[bytes | _Step] = []
    begins: dict[int, int] = {}
    for start, following in zip(order, [*order[1:], None], strict=True):
        begins[start] = len(made)
        places, jumps_to, falls_to = blocks[start]
        for place in places if jumps_to is None else places[:-1]:
            if place not in marks:
                made += [code[step * 8 : step * 8 + 8] for step in range(place, ends[place])]
        if jumps_to is not None and falls_to is not None:
            operation, registers, _, immediate = steps[places[-1]]
            if jumps_to == following and operation & 0xF0 in _OPPOSITE:
                operation = operation & 0x0F | _OPPOSITE[operation & 0xF0]
                jumps_to, falls_to = falls_to, jumps_to
            made.append((operation, registers, jumps_to, immediate))
        goes_on = jumps_to if falls_to is None else falls_to
        if goes_on is not None and goes_on != following:
            made.append((_GOTO, 0, goes_on, 0))
    return b"".join(
        step if isinstance(step, bytes) else _STEP.pack(*step[:2], begins[step[2]] - place - 1, step[3])
        for place, step in enumerate(made)
    )


def relocate(code: bytes, direction: int, addresses: list[int]) -> bytes:
    """The same program for a direction, with descriptors of maps where it has their addresses, by their numbers."""
    whole = bytearray(code)
    filled = set()
    for place, _ in _places(code):
        at = place * _STEP.size
        low, high = (int.from_bytes(code[end - 4 : end], sys.byteorder) for end in (at + 8, at + 16))
        if code[at] == _MOVE and low == DIRECTION:
            filled.add(DIRECTION)
            whole[at + 4 : at + 8] = direction.to_bytes(4, sys.byteorder)
        elif code[at] == _LOAD and high == DIRECT:
            filled.add(low)
            whole[at + 1] |= _MAP_VALUE
            whole[at + 4 : at + 8] = addresses[low].to_bytes(4, sys.byteorder)
            whole[at + 12 : at + 16] = bytes(4)
    assert filled == {DIRECTION, *range(len(addresses))}, "the compiler left something out"
    return bytes(whole)
