# SPDX-License-Identifier: Apache-2.0
"""Traffic mixes for the kernel program: many flows between many subnets, all packets of one form."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]

_ETHERNET = bytes(12)
_TIMESTAMPS = bytes.fromhex("0101080a") + struct.pack("!II", 1000, 5)
_PAYLOAD = bytes(100)
_TCP, _UDP = 6, 17
_ACK, _PUSH_ACK = 0x10, 0x18


@dataclass(frozen=True)
class Mix:
    """`flows` flows of one form of packet, whose servers are in `subnets` subnets."""

    form: str
    flows: int
    subnets: int


MIXES = (
    Mix("TCP data", 1, 1),
    Mix("TCP data", 1_000, 10),
    Mix("TCP data", 60_000, 1_000),
    Mix("TCP data", 60_000, 16_000),
    Mix("TCP ACK", 1, 1),
    Mix("TCP ACK", 60_000, 1_000),
    Mix("TCP data, no timestamps", 1, 1),
    Mix("TCP data, no timestamps", 60_000, 1_000),
    Mix("TCP data, IPv6", 1, 1),
    Mix("TCP data, IPv6", 60_000, 1_000),
    Mix("UDP", 1, 1),
    Mix("UDP", 60_000, 1_000),
)


def _tcp(flags: int, options: bytes) -> bytes:
    return struct.pack("!HHIIBBHHH", 0, 443, 1, 1, (20 + len(options)) << 2, flags, 500, 0, 0) + options


def frames(mix: Mix) -> Frames:
    """A frame for each flow: (flows, bytes). Checksums are left out, for nobody looks at them."""
    if mix.form == "UDP":
        protocol, transport = _UDP, struct.pack("!HHHH", 0, 6000, 8 + len(_PAYLOAD), 0) + _PAYLOAD
    elif mix.form == "TCP ACK":
        protocol, transport = _TCP, _tcp(_ACK, _TIMESTAMPS)
    else:
        options = b"" if "no timestamps" in mix.form else _TIMESTAMPS
        protocol, transport = _TCP, _tcp(_PUSH_ACK, options) + _PAYLOAD
    if "IPv6" in mix.form:
        source, destination = bytes.fromhex("20010db80001") + bytes(10), bytes.fromhex("20010db90000") + bytes(10)
        network = struct.pack("!IHBB", 6 << 28, len(transport), protocol, 64) + source + destination
        ethertype, subnet_at, host_at = 0x86DD, 14 + 24 + 4, 14 + 24 + 12
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0)
        network = head + bytes((10, 0, 0, 1)) + bytes((11, 0, 0, 1))
        ethertype, subnet_at, host_at = 0x0800, 14 + 16 + 1, 14 + 16 + 3
    frame = _ETHERNET + struct.pack("!H", ethertype) + network + transport
    rows = np.tile(np.frombuffer(frame, np.uint8), (mix.flows, 1))
    number = np.arange(mix.flows)
    # Flows in an order without pattern, as packets come; each subnet's have ports, and then hosts, of their own.
    np.random.default_rng(1).shuffle(number)
    subnet, flow = number % mix.subnets, number // mix.subnets
    rows[:, subnet_at], rows[:, subnet_at + 1] = subnet >> 8, subnet & 0xFF
    rows[:, host_at] = 1 + flow % 250
    port_at = 14 + len(network)
    rows[:, port_at], rows[:, port_at + 1] = 0x80 | flow >> 8 & 0x7F, flow & 0xFF
    return rows
