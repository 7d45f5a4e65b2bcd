# SPDX-License-Identifier: Apache-2.0
"""Rewrites the compiled instructions before the kernel verifies them.

`move_cold_blocks()` moves rarely executed code to the end of the program, so that the code for most packets is
contiguous. Between two packets, the code of the network stack runs. So the program is usually not in the instruction
cache when a packet arrives, and each cache line of code takes time to load. The compiler keeps the order of the source,
because no pass that BCC runs uses branch probabilities. So the source marks rarely executed code with cold()
(bpf/compiler.h). Code that can be reached only from marked code is cold, too.

`relocate()` replaces two placeholders with values that the compiler does not know. DIRECTION is the direction for which
the program is loaded. DIRECT is the descriptor of a map that the program accesses by address (bpf/direct_value.h).

linux/bpf.h defines the instructions. An instruction has 8 bytes, except the load of a 64-bit constant, which has 16
bytes. In this file, positions and jump offsets are in units of 8 bytes. The offset of a jump is relative to the end of
the jump instruction.

The loader runs this file by its path, so the file imports nothing from this package.
"""

import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

# The values of the placeholders when bpf/ is compiled. No other constant in the program has the value of a placeholder.
DIRECTION, DIRECT, COLD = 0x65707069, 0x64697265, 0x72617265
PLACEHOLDERS = {"DIRECTION": DIRECTION, "DIRECT": DIRECT, "COLD": COLD}

# register = 32-bit constant (BPF_ALU64 | BPF_MOV | BPF_K)
_MOVE = 0xB7
# register = 64-bit constant (BPF_LD | BPF_IMM | BPF_DW). The second unit contains the upper half of the constant. If
# the source register is BPF_PSEUDO_MAP_VALUE (2), the constant is an address in the value of a map. The lower half of
# the address is the descriptor of the map, and the upper half is the offset in the value.
_LOAD, _MAP_VALUE = 0x18, 2 << 4 if sys.byteorder == "little" else 2
_GOTO, _CALL, _EXIT = 0x05, 0x85, 0x95
_LONG_GOTO, _FUNCTION = 0x06, 1 << 4 if sys.byteorder == "little" else 1  # BPF_PSEUDO_CALL as the source register.
_JUMP_CLASSES = (5, 6)  # BPF_JMP and BPF_JMP32.
# The pairs of opposite conditions are BPF_JEQ and BPF_JNE, BPF_JGT and BPF_JLE, BPF_JGE and BPF_JLT, BPF_JSGT and
# BPF_JSLE, BPF_JSGE and BPF_JSLT. BPF_JSET has no opposite.
_OPPOSITES = ((0x10, 0x50), (0x20, 0xB0), (0x30, 0xA0), (0x60, 0xD0), (0x70, 0xC0))
_OPPOSITE = {a: b for pair in _OPPOSITES for a, b in (pair, pair[::-1])}

_UNIT = struct.Struct("=BBhi")


class _Instruction(NamedTuple):
    """An instruction with its position and its bytes. An instruction is one or two units long."""

    position: int
    opcode: int
    registers: int
    offset: int
    immediate: int
    code: bytes

    @property
    def end(self) -> int:
        """The position of the next instruction."""
        return self.position + len(self.code) // _UNIT.size

    @property
    def is_jump(self) -> bool:
        """True if the instruction is a conditional or unconditional jump."""
        return self.opcode & 7 in _JUMP_CLASSES and self.opcode not in (_CALL, _EXIT)

    @property
    def is_mark(self) -> bool:
        """True if the instruction is a mark, which the compiler makes from cold()."""
        return self.opcode == _MOVE and self.immediate == COLD


class _Block(NamedTuple):
    """A basic block: instructions that are always executed together, and the positions of the blocks that may follow.

    jumps_to  the target of the jump at the end of the block; None if the block does not end with a jump
    falls_to  the block that is executed next if no jump is taken; None if the block ends with an exit or an
              unconditional jump
    """

    instructions: list[_Instruction]
    jumps_to: int | None
    falls_to: int | None


class _Jump(NamedTuple):
    """A jump that is emitted before the new position of its target is known. `target` is the target's old position."""

    opcode: int
    registers: int
    target: int
    immediate: int


def _decode(code: bytes) -> Iterator[_Instruction]:
    position = 0
    while position * _UNIT.size < len(code):
        start = position * _UNIT.size
        size = _UNIT.size * (2 if code[start] == _LOAD else 1)
        opcode, registers, offset, immediate = _UNIT.unpack_from(code, start)
        instruction = _Instruction(position, opcode, registers, offset, immediate, code[start : start + size])
        yield instruction
        position = instruction.end


def _graph(code: bytes) -> dict[int, _Block]:
    """Divides a program into basic blocks. Returns the blocks by position."""
    instructions = list(_decode(code))
    # BCC compiles for an old version of BPF, which has neither functions nor jumps with 32-bit offsets.
    assert all(each.opcode != _LONG_GOTO for each in instructions)
    assert all((each.opcode, each.registers) != (_CALL, _FUNCTION) for each in instructions)
    targets = {each.position: each.end + each.offset for each in instructions if each.is_jump}
    starts = {0, *targets.values()}
    blocks = {}
    block: list[_Instruction] = []
    for each in instructions:
        block.append(each)
        if each.is_jump or each.opcode == _EXIT or each.end in starts:
            falls_to = None if each.opcode in (_GOTO, _EXIT) else each.end
            blocks[block[0].position] = _Block(block, targets.get(each.position), falls_to)
            block = []
    return blocks


def _order(blocks: dict[int, _Block]) -> list[int]:
    """Returns the new order of the blocks: first all hot blocks, then all cold blocks, each group in the old order.

    A block is hot if it contains no mark and can be reached from the start through blocks without marks.
    """
    hot: set[int] = set()
    pending: list[int | None] = [0]
    while pending:
        position = pending.pop()
        if position is None or position in hot:
            continue
        block = blocks[position]
        if not any(each.is_mark for each in block.instructions):
            hot.add(position)
            pending += [block.jumps_to, block.falls_to]
    return sorted(blocks, key=lambda position: (position not in hot, position))


def _emit(blocks: dict[int, _Block], order: list[int]) -> bytes:
    """Returns the code of the blocks in the order `order`, without marks.

    A block may continue in the next block without a jump. If the new order separates the two blocks, the condition of
    a jump is inverted, or a jump is added.
    """
    units: list[bytes | _Jump] = []
    new_positions: dict[int, int] = {}
    for position, next_position in zip(order, [*order[1:], None], strict=True):
        new_positions[position] = len(units)
        instructions, jumps_to, falls_to = blocks[position]
        for each in instructions if jumps_to is None else instructions[:-1]:
            if not each.is_mark:
                units += [each.code[start : start + _UNIT.size] for start in range(0, len(each.code), _UNIT.size)]
        if jumps_to is not None and falls_to is not None:
            jump = instructions[-1]
            opcode = jump.opcode
            if jumps_to == next_position and opcode & 0xF0 in _OPPOSITE:
                opcode = opcode & 0x0F | _OPPOSITE[opcode & 0xF0]
                jumps_to, falls_to = falls_to, jumps_to
            units.append(_Jump(opcode, jump.registers, jumps_to, jump.immediate))
        successor = jumps_to if falls_to is None else falls_to
        if successor is not None and successor != next_position:
            units.append(_Jump(_GOTO, 0, successor, 0))
    return b"".join(
        unit
        if isinstance(unit, bytes)
        else _UNIT.pack(unit.opcode, unit.registers, new_positions[unit.target] - index - 1, unit.immediate)
        for index, unit in enumerate(units)
    )


def move_cold_blocks(code: bytes) -> bytes:
    """Returns an equivalent program without marks, in which all cold blocks come after all hot blocks."""
    blocks = _graph(code)
    return _emit(blocks, _order(blocks))


def relocate(code: bytes, direction: int, map_fds: list[int]) -> bytes:
    """Returns the program for one direction, with the addresses of its maps.

    `direction` replaces DIRECTION. `map_fds` has the descriptors of the maps, in the order of enum direct_table
    (bpf/direct_value.h). Raises AssertionError if a placeholder does not occur in the program.
    """
    relocated = bytearray(code)
    found = set()
    for each in _decode(code):
        start = each.position * _UNIT.size
        if each.opcode == _MOVE and each.immediate == DIRECTION:
            found.add(DIRECTION)
            relocated[start + 4 : start + 8] = direction.to_bytes(4, sys.byteorder)
        elif each.opcode == _LOAD and int.from_bytes(each.code[12:], sys.byteorder) == DIRECT:
            found.add(each.immediate)
            relocated[start + 1] |= _MAP_VALUE
            relocated[start + 4 : start + 8] = map_fds[each.immediate].to_bytes(4, sys.byteorder)
            relocated[start + 12 : start + 16] = bytes(4)
    assert found == {DIRECTION, *range(len(map_fds))}, "a placeholder is missing in the compiled program"
    return bytes(relocated)
