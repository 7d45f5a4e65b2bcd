# SPDX-License-Identifier: Apache-2.0
"""Mutates whole packets.

A mutation takes a step and the meaning of its packet, and returns the changed step. Most mutations change chosen header
fields, because packets with random bit flips seldom reach the code for inner headers.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import replace

from tests.long.fuzz import builders, talks
from tests.long.fuzz.meaning import (
    AUTHENTICATION,
    DESTINATION,
    ETHERNET,
    FRAGMENT,
    HOP_BY_HOP,
    MOBILITY,
    ROUTING,
    Meaning,
    read,
)
from tests.long.fuzz.rules import Step

# The minimum lengths of a frame in BPF_PROG_TEST_RUN. A frame with an EtherType of IP must have a complete IP header.
SHORTEST_FRAME = 15
SHORTEST_OF_TYPE = {b"\x08\x00": ETHERNET + 20, b"\x86\xdd": ETHERNET + 40}
MOST_WIRE_LENGTH = 65_536
BYTES = (0, 1, 2, 4, 5, 6, 8, 10, 17, 0x0F, 0x40, 0x45, 0x4F, 0x60, 0x80, 0x88, 0xC0, 0xFF)
FLAGS = (0, 1, 2, 3, 4, 6, 16, 17, 18, 20, 24, 0xC2)
EXTENSIONS = (HOP_BY_HOP, ROUTING, AUTHENTICATION, DESTINATION, MOBILITY, FRAGMENT)

Mutation = Callable[[random.Random, Step, Meaning], Step]


def fit(step: Step) -> Step:
    """Shortens or extends the frame of a step to a length that BPF_PROG_TEST_RUN accepts."""
    frame = step.frame[: talks.LONGEST_FRAME]
    least = SHORTEST_OF_TYPE.get(frame[12:14], SHORTEST_FRAME)
    if len(frame) < least:
        frame += bytes(least - len(frame))
    wire = step.wire_length and min(max(step.wire_length, len(frame)), MOST_WIRE_LENGTH)
    return step._replace(frame=frame, wire_length=wire)


def put(step: Step, at: int, data: bytes) -> Step:
    """Replaces bytes of the frame."""
    return step._replace(frame=step.frame[:at] + data + step.frame[at + len(data) :])


def cut(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Truncates the frame. Sometimes the length on the wire stays unchanged, as in a truncated capture."""
    begin = min(meaning.network_at or SHORTEST_FRAME, len(step.frame))
    size = chance.randrange(begin, len(step.frame) + 1)
    if chance.random() < 0.3:
        size = min(size, meaning.headers + 12)
    return step._replace(frame=step.frame[:size], wire_length=chance.choice((0, len(step.frame))))


def turn_bits(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Flips a few bits, usually in the headers."""
    frame = bytearray(step.frame)
    end = len(frame) if chance.random() < 0.1 else min(len(frame), (meaning.headers or 60) + 8)
    for _ in range(chance.choice((1, 1, 2, 4))):
        frame[chance.randrange(end)] ^= 1 << chance.randrange(8)
    return step._replace(frame=bytes(frame))


def set_bytes(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Sets a few bytes to values that have a special meaning in many header fields."""
    frame = bytearray(step.frame)
    end = min(len(frame), (meaning.headers or 60) + 8)
    for _ in range(chance.choice((1, 1, 2, 4))):
        frame[chance.randrange(12 if end > 12 else 0, end)] = chance.choice(BYTES)
    return step._replace(frame=bytes(frame))


def lie_about_length(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Changes the length field of PPPoE, IP or UDP, the IHL of IPv4, or the data offset of TCP."""
    at, transport = meaning.network_at, meaning.transport_at
    place = chance.randrange(4)
    if chance.random() < 0.3 and builders.PPPOE in step.frame[:at]:
        more = chance.choice((0, -1, 1, -20, -len(step.frame) + at + chance.randrange(60), 1000))
        return step._replace(frame=builders.with_session_length(step.frame, at, more))
    if place == 0 or not transport or transport + 14 > len(step.frame):
        field = at + (2 if meaning.version == 4 else 4)
        true = int.from_bytes(step.frame[field : field + 2], "big")
        value = chance.choice(
            (0, 1, 19, 20, 21, true - 1, true + 1, true - 8, true + 8, 0xFFFF, chance.getrandbits(16))
        )
        return put(step, field, (value & 0xFFFF).to_bytes(2, "big"))
    if place == 1 and meaning.version == 4:
        return put(step, at, bytes([0x40 | chance.randrange(16)]))
    if meaning.kind == "tcp":
        return put(step, transport + 12, bytes([chance.randrange(16) << 4 | chance.randrange(16)]))
    size = chance.choice((0, 7, 8, 9, 15, 16, 0xFFFF, chance.randrange(64)))
    return put(step, transport + 4, size.to_bytes(2, "big"))


def any_options(chance: random.Random, tsval: int, tsecr: int) -> bytes:
    """Returns a random number of TCP options in random order. Some options are broken."""
    options = b""
    while len(options) < 40 and chance.random() < 0.9:
        kind = chance.random()
        if kind < 0.3:
            options += b"\x01"
        elif kind < 0.55:
            options += builders.timestamp(tsval, tsecr)[2:]
        elif kind < 0.6:
            options += bytes([8, chance.choice((0, 1, 2, 9, 11, 12)), *bytes(chance.randrange(10))])
        elif kind < 0.65:
            options += b"\x00"
        else:
            size = chance.choice((2, 3, 4, 6, 10, 18, chance.randrange(2, 41)))
            body = bytes(chance.choice(BYTES) for _ in range(size - 2))
            said = size if chance.random() < 0.9 else chance.choice((0, 1, size - 1, size + 1, 255))
            options += bytes([chance.choice((2, 3, 4, 5, 8, 19, 30, 34, 254)), said]) + body
    return options[:40]


def change_options(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Replaces the TCP options. Corrects the length fields, so that they fit the new options."""
    if meaning.kind != "tcp":
        return turn_bits(chance, step, meaning)
    at = meaning.transport_at
    options = any_options(chance, *(meaning.timestamp or (chance.getrandbits(32), 0)))
    options += bytes(chance.choice((0, 1)) for _ in range(-len(options) % 4))
    offset = bytes([(20 + len(options)) // 4 << 4])
    segment = step.frame[at : at + 12] + offset + step.frame[at + 13 : at + 20] + options
    return replace_transport(step, meaning, segment + step.frame[meaning.headers :])


def replace_transport(step: Step, meaning: Meaning, payload: bytes) -> Step:
    """Replaces the data after the IP headers, and corrects the length field of the IP header."""
    frame = step.frame[: meaning.transport_at] + payload
    at = meaning.network_at
    if meaning.version == 4:
        return put(step._replace(frame=frame, wire_length=0), at + 2, (len(frame) - at).to_bytes(2, "big"))
    return put(step._replace(frame=frame, wire_length=0), at + 4, (len(frame) - at - 40).to_bytes(2, "big"))


def insert_extensions(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Inserts a chain of IPv6 extension headers, or IPv4 options."""
    at = meaning.network_at
    if meaning.version == 4:
        words = chance.randrange(11)
        frame = step.frame[: at + 20] + bytes([1]) * 4 * words + step.frame[at + 20 :]
        longer = put(step._replace(frame=frame, wire_length=0), at, bytes([0x45 + words]))
        return put(longer, at + 2, (len(frame) - at & 0xFFFF).to_bytes(2, "big"))
    if meaning.version != 6:
        return turn_bits(chance, step, meaning)
    chosen = chance.choices(EXTENSIONS, (3, 3, 3, 3, 3, 1), k=chance.choice((1, 1, 2, 3, 5, 8, 9, 12)))
    protocols = [*chosen, step.frame[at + 6]]
    chain = b"".join(
        builders.extension(protocol, following, chance.choice((0, 0, 0, 1, 2, 7, 255)) if chance.random() < 0.7 else 0)
        for protocol, following in itertools.pairwise(protocols)
    )
    if chance.random() < 0.1:
        lie = chance.randrange(len(chain))
        chain = chain[:lie] + bytes([chance.choice(BYTES)]) + chain[lie + 1 :]
    chained = put(step, at + 6, bytes(protocols[:1]))
    return replace_transport(chained, meaning, chain + step.frame[meaning.transport_at :])


def change_tunnel(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Puts the packet into a tunnel.

    If the packet is already in a tunnel, replaces this tunnel by another tunnel. May change one byte of the new outer
    headers.
    """
    at = meaning.network_at
    if not meaning.version or at > 100:
        return turn_bits(chance, step, meaning)
    version = chance.choice((4, 6)) if at not in (0, ETHERNET) else meaning.version
    packet = talks.any_tunnel(chance, version)(step.frame[at:], step.ingress)
    wrapped = step._replace(frame=step.frame[:at] + packet, wire_length=0)
    if chance.random() < 0.5:
        return wrapped
    frame = bytearray(wrapped.frame)
    frame[at + chance.randrange(len(packet) - len(step.frame) + at)] = chance.choice(BYTES)
    return wrapped._replace(frame=bytes(frame))


def change_link(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Replaces the headers before the IP header by random headers in random order.

    The number of these headers may exceed the program's limit.
    """
    if not meaning.network_at or not meaning.version:
        return turn_bits(chance, step, meaning)
    names = chance.choice((builders.LINKS, builders.ALL_LINKS))
    stack = talks.any_stack(chance) if chance.random() < 0.5 else chance.choices(names, k=chance.randrange(11))
    link = builders.link(stack, meaning.version, chance.getrandbits(20))
    return step._replace(frame=link + step.frame[meaning.network_at :], wire_length=0)


def change_numbers(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Changes a sequence number, the flags, the window, a timestamp or an identifier, usually without changing the
    flow.
    """
    at = meaning.transport_at
    if not at or at + 20 > len(step.frame):
        return turn_bits(chance, step, meaning)
    delta = chance.choice((-1, 1, -2, 5, -5, 30, -30, 100, 1 << 31, (1 << 31) - 1, chance.getrandbits(32)))
    if meaning.kind == "tcp" and chance.random() < 0.4:
        return put(step, at + 13, bytes([chance.choice((*FLAGS, chance.getrandbits(8)))]))
    if meaning.kind == "tcp" and chance.random() < 0.1:
        return put(step, at + 14, bytes(2))
    place = chance.choice((4, 8, 24, 28) if meaning.kind == "tcp" else (0, 2, 4, 8, 12))
    old = int.from_bytes(step.frame[at + place : at + place + 4], "big")
    return put(step, at + place, ((old + delta) % (1 << 32)).to_bytes(4, "big"))


def change_payload(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Changes the fields of UDP and ICMP packets that the methods read: the ports and the first 8 bytes."""
    at = meaning.transport_at
    if meaning.kind not in ("udp", "icmp") or at + 8 > len(step.frame):
        return turn_bits(chance, step, meaning)
    if meaning.kind == "udp" and chance.random() < 0.3:
        ports = builders.udp((chance.choice((53, 443, 40_000)), chance.choice((53, 443, 40_000))), b"")[:4]
        return put(step, at, ports)
    if chance.random() < 0.2:
        # An empty UDP datagram, followed by the padding that a short Ethernet frame needs.
        shorter = replace_transport(step, meaning, step.frame[at : at + 4] + b"\x00\x08\x00\x00")
        return shorter._replace(frame=shorter.frame + bytes(chance.randrange(20)))
    place = at + chance.randrange(16 if meaning.kind == "udp" else 8)
    return put(step, place, bytes([chance.choice(BYTES)])) if place < len(step.frame) else step


def pad(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Appends bytes after the packet, like the padding of Ethernet: zeros or random bytes."""
    size = chance.choice((1, 6, 18, 46))
    padding = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
    return step._replace(frame=step.frame + padding, wire_length=0)


def fragment(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Sets the fragment fields of IPv4, or inserts an IPv6 fragment header.

    In half of the cases, also truncates the packet to a real first fragment.
    """
    at = meaning.network_at
    if meaning.version not in (4, 6):
        return turn_bits(chance, step, meaning)
    if chance.random() < 0.5:
        size = chance.choice((0, 8, 16, 24, 32, 40, 48))
        first = step.frame[meaning.transport_at : meaning.transport_at + size]
        step, more, offset = replace_transport(step, meaning, first), 1, 0
    else:
        more, offset = chance.choice((0, 1)), chance.choice((0, 0, 1, 0x1FFF, chance.getrandbits(13)))
    if meaning.version == 4:
        return put(step, at + 6, (more << 13 | offset).to_bytes(2, "big"))
    header = bytes([step.frame[at + 6], chance.choice((0, 0, 7))]) + (offset << 3 | more).to_bytes(2, "big") + bytes(4)
    chained = put(step, at + 6, bytes([FRAGMENT]))
    return replace_transport(chained, replace(meaning, transport_at=at + 40), header + step.frame[at + 40 :])


def go_back(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Reverses the direction in which the packet passes the interface, as on a router that has only one interface."""
    return step._replace(ingress=not step.ingress)


def aggregate(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Makes the packet an aggregate of several segments (GRO, GSO)."""
    length = step.wire_length or len(step.frame)
    return step._replace(
        segments=chance.choice((1, 2, 3, 44, 65_535)),
        wire_length=chance.choice((length, length + 1000, MOST_WIRE_LENGTH)),
    )


def rubbish(chance: random.Random, step: Step, meaning: Meaning) -> Step:
    """Replaces the frame by random bytes. Sometimes the frame still starts with a valid header."""
    keep = chance.choice((0, 12, 14, meaning.network_at, meaning.transport_at))
    return step._replace(frame=step.frame[:keep] + chance.randbytes(chance.randrange(15, 120)), wire_length=0)


def is_whole(step: Step, link_header: int) -> bool:
    """Returns true if the packet can become an aggregate.

    Each segment of an aggregate has the headers of the packet. So the length of the headers must be known, with and
    without the option `tunnels`.
    """
    length = step.wire_length or len(step.frame)
    kinds = {read(step.frame, link_header, length, tunnels=tunnels).kind for tunnels in (False, True)}
    return not kinds & {"malformed", "non_ip"}


MUTATIONS: dict[Mutation, int] = {
    cut: 4,
    turn_bits: 4,
    set_bytes: 4,
    lie_about_length: 4,
    change_options: 6,
    insert_extensions: 3,
    change_link: 3,
    change_tunnel: 1,
    change_numbers: 6,
    change_payload: 4,
    pad: 2,
    fragment: 2,
    go_back: 1,
    rubbish: 1,
}


def mutate(chance: random.Random, step: Step, link_header: int) -> Step:
    """Applies one mutation, or sometimes two or three mutations. Some packets become an aggregate instead."""
    tunnels = chance.random() < 0.7  # in most cases, the mutations change the inner packet
    meaning = read(step.frame, link_header, step.wire_length or len(step.frame), tunnels=tunnels)
    if chance.random() < 0.03 and is_whole(step, link_header):
        chosen: list[Mutation] = [aggregate]
    else:
        chosen = chance.choices(list(MUTATIONS), list(MUTATIONS.values()), k=chance.choice((1, 1, 1, 1, 2, 3)))
    names = []
    for mutation in chosen:
        step = fit(mutation(chance, step, meaning))
        names.append(mutation.__name__)
        if len(chosen) > 1:
            meaning = read(step.frame, link_header, step.wire_length or len(step.frame), tunnels=tunnels)
    return step._replace(note=", ".join(names))
