# SPDX-License-Identifier: Apache-2.0
"""Executes a BPF program outside the kernel, and counts the instructions that are executed for a packet.

The simulator supports the instructions that the compiler generates for the first BPF instruction set (v1, see
linux/bpf.h), and the helpers that our program calls. The upper bits of an address are the number of a memory region.
The lower bits of an address are an offset in the memory region. The simulator does not check memory accesses, because
the verifier accepts only programs whose accesses are valid.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_WIDTH = {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}  # BPF_SIZE: W, H, B, DW
_WORD = (1 << 64) - 1
_REGION_BITS = 40
_LOAD64, _CALL, _EXIT, _GOTO = 0x18, 0x85, 0x95, 0x05
_MAP_FD, _MAP_VALUE = 1, 2  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
_ARRAY = 2  # enum bpf_map_type
_STACK_BYTES = 512
_ENOENT, _EFAULT, _EEXIST = 2, 14, 17
# Offsets of fields in struct __sk_buff: the fields that the simulator sets, and the pointers `data` and `data_end`.
_LEN, _PROTOCOL, _IFINDEX, _DATA, _DATA_END, _WIRE_LEN, _GSO_SEGS = 0, 16, 40, 76, 80, 160, 164
_ETHERNET_BYTES = 14


@dataclass
class SimulatedMap:
    """A map of the program."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    base: int = 0  # the address of the first element, if the map is an array
    # The address of the value for each key, if the map is a hash map.
    values: dict[bytes, int] = field(default_factory=dict)

    @property
    def stride(self) -> int:
        """The distance between two elements of an array, in bytes."""
        return -(-self.value_size // 8) * 8


def _signed(value: int, bits: int = 64) -> int:
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


_ARITHMETIC: dict[int, Callable[[int, int, int], int]] = {
    0x00: lambda a, b, bits: a + b,
    0x10: lambda a, b, bits: a - b,
    0x20: lambda a, b, bits: a * b,
    0x30: lambda a, b, bits: a // b if b else 0,
    0x40: lambda a, b, bits: a | b,
    0x50: lambda a, b, bits: a & b,
    0x60: lambda a, b, bits: a << (b & (bits - 1)),
    0x70: lambda a, b, bits: a >> (b & (bits - 1)),
    0x80: lambda a, b, bits: -a,
    0xA0: lambda a, b, bits: a ^ b,
    0xB0: lambda a, b, bits: b,
    0xC0: lambda a, b, bits: _signed(a, bits) >> (b & (bits - 1)),
}
_BYTE_ORDER = 0xD0
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {
    0x10: lambda a, b: a == b,
    0x20: lambda a, b: a > b,
    0x30: lambda a, b: a >= b,
    0x40: lambda a, b: bool(a & b),
    0x50: lambda a, b: a != b,
    0x60: lambda a, b: _signed(a) > _signed(b),
    0x70: lambda a, b: _signed(a) >= _signed(b),
    0xA0: lambda a, b: a < b,
    0xB0: lambda a, b: a <= b,
    0xC0: lambda a, b: _signed(a) < _signed(b),
    0xD0: lambda a, b: _signed(a) <= _signed(b),
}


class Simulator:
    """Executes BPF programs that share maps. The keys of `tables` are the map descriptors in the instructions."""

    def __init__(self, programs: dict[str, bytes], tables: dict[int, SimulatedMap]) -> None:
        self.now_ns = 10**12
        self._regions: list[bytearray] = []
        self._programs = {name: list(struct.iter_unpack("=BBhi", code)) for name, code in programs.items()}
        self._tables = tables
        for table in tables.values():
            if table.type == _ARRAY:
                table.base = self.region(table.stride * table.max_entries)
        self._stack = self.region(_STACK_BYTES) + _STACK_BYTES
        self._context, self._packet, self._packet_bytes = self.region(256), self.region(1 << 16), 0

    def region(self, size: int) -> int:
        """Creates a zeroed memory region. Returns the address of the region."""
        self._regions.append(bytearray(size))
        return len(self._regions) << _REGION_BITS

    def _at(self, address: int) -> tuple[bytearray, int]:
        return self._regions[(address >> _REGION_BITS) - 1], address & ((1 << _REGION_BITS) - 1)

    def read(self, address: int, size: int) -> bytes:
        """Returns `size` bytes of memory."""
        memory, offset = self._at(address)
        return bytes(memory[offset : offset + size])

    def write(self, address: int, value: bytes) -> None:
        """Writes bytes into memory."""
        memory, offset = self._at(address)
        memory[offset : offset + len(value)] = value

    def _load(self, address: int, size: int) -> int:
        pointers = {_DATA: self._packet, _DATA_END: self._packet + self._packet_bytes}
        if address - self._context in pointers:
            return pointers[address - self._context]
        return int.from_bytes(self.read(address, size), "little")

    def _store(self, address: int, value: int, size: int) -> None:
        self.write(address, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

    def run(self, program: str, frame: bytes) -> int:
        """Executes a program on an Ethernet frame of interface 1. Returns the number of executed instructions."""
        self.write(self._packet, frame)
        self._packet_bytes = len(frame)
        values = {_LEN: len(frame), _WIRE_LEN: len(frame), _IFINDEX: 1, _GSO_SEGS: 1}
        values[_PROTOCOL] = int.from_bytes(frame[12:14], "little")
        for place, value in values.items():
            self._store(self._context + place, value, 4)
        return self._execute(self._programs[program])

    def _execute(self, steps: list[tuple[int, ...]]) -> int:
        r = [0] * 11
        r[1], r[10] = self._context, self._stack
        place = count = 0
        while True:
            code, registers, offset, immediate = steps[place]
            to, source = registers & 15, registers >> 4
            kind, operation, size = code & 7, code & 0xF0, _WIDTH[code & 0x18]
            place, count = place + 1, count + 1
            if code == _LOAD64:
                r[to] = self._constant(source, immediate, steps[place][3])
                place += 1
            elif code == _CALL:
                r[0] = self._call(immediate, r) & _WORD
            elif code == _EXIT:
                return count
            elif code == _GOTO:
                place += offset
            elif kind in (4, 7):  # BPF_ALU, BPF_ALU64
                self._compute(r, code, to, r[source] if code & 8 else immediate & _WORD, immediate)
            elif kind == 5:  # BPF_JMP
                if _COMPARISONS[operation](r[to], r[source] if code & 8 else immediate & _WORD):
                    place += offset
            elif kind == 1:  # BPF_LDX
                r[to] = self._load(r[source] + offset, size)
            elif code & 0xE0 == 0xC0:  # BPF_STX | BPF_ATOMIC
                self._atomic(r, r[to] + offset, source, size, immediate)
            else:  # BPF_STX, BPF_ST
                self._store(r[to] + offset, r[source] if kind == 3 else immediate, size)

    def _constant(self, source: int, low: int, high: int) -> int:
        if source == _MAP_VALUE:
            return self._tables[low].base
        return low if source == _MAP_FD else (high & 0xFFFFFFFF) << 32 | low & 0xFFFFFFFF

    def _compute(self, r: list[int], code: int, to: int, operand: int, immediate: int) -> None:
        bits = 64 if code & 7 == 7 else 32
        mask = (1 << bits) - 1
        if code & 0xF0 == _BYTE_ORDER:  # BPF_END: converts to big endian, or truncates to `immediate` bits
            part = r[to] & ((1 << immediate) - 1)
            r[to] = int.from_bytes(part.to_bytes(immediate // 8, "little"), "big") if code & 8 else part
        else:
            r[to] = _ARITHMETIC[code & 0xF0](r[to] & mask, operand & mask, bits) & mask

    def _atomic(self, r: list[int], address: int, source: int, size: int, how: int) -> None:
        old = self._load(address, size)
        if how == 0xF1:  # BPF_CMPXCHG
            if old == r[0]:
                self._store(address, r[source], size)
            r[0] = old
        elif how == 0xE1:  # BPF_XCHG
            self._store(address, r[source], size)
            r[source] = old
        else:  # BPF_ADD or BPF_OR, with or without BPF_FETCH
            self._store(address, old | r[source] if how & 0x40 else old + r[source], size)
            r[source] = old if how & 1 else r[source]

    def _call(self, helper: int, r: list[int]) -> int:
        """Executes a BPF helper that our program calls.

        `helper` is the number of the BPF helper in enum bpf_func_id.
        """
        calls: dict[int, Callable[..., Any]] = {
            1: lambda: self._look_up(self._tables[r[1]], r[2]),
            2: lambda: self._update(self._tables[r[1]], r[2], r[3], r[4]),
            5: lambda: self.now_ns,  # bpf_ktime_get_ns
            8: lambda: 0,  # bpf_get_smp_processor_id
            26: lambda: self._load_bytes(r[2], r[3], r[4]),
            68: lambda: self._load_bytes(r[2] + _ETHERNET_BYTES, r[3], r[4]),  # offset from the network header
            87: lambda: 0,  # bpf_map_push_elem
            88: lambda: -_ENOENT,  # bpf_map_pop_elem: the queues of freed rows are empty
            118: lambda: self.now_ns // 4_000_000,  # bpf_jiffies64
        }
        return int(calls[helper]())

    def _look_up(self, table: SimulatedMap, key_address: int) -> int:
        key = self.read(key_address, table.key_size)
        if table.type != _ARRAY:
            return table.values.get(key, 0)
        row = int.from_bytes(key, "little")
        return table.base + row * table.stride if row < table.max_entries else 0

    def _update(self, table: SimulatedMap, key_address: int, value_address: int, flags: int) -> int:
        key = self.read(key_address, table.key_size)
        if flags == 1 and key in table.values:  # BPF_NOEXIST
            return -_EEXIST
        address = table.values.setdefault(key, 0) or self.region(table.value_size)
        table.values[key] = address
        self.write(address, self.read(value_address, table.value_size))
        return 0

    def _load_bytes(self, offset: int, to: int, size: int) -> int:
        if offset + size > self._packet_bytes:
            return -_EFAULT
        self.write(to, self.read(self._packet + offset, size))
        return 0
