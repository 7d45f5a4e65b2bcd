# SPDX-License-Identifier: Apache-2.0
"""Decides which packets are copies of packets that were captured before. Implements the rules of docs/methods.md."""

from typing import Any

from tests.long.fuzz.flows import ASKS_AGAIN
from tests.long.fuzz.links import number
from tests.long.fuzz.meaning import FIN, SYN, Meaning
from tests.long.fuzz.methods import COPY_NS, Seen

UNKNOWN_NS, WITHOUT_IDENTIFICATION_NS = 1_000_000, 100_000
_DNS_PORT = 53
_ECHOES = {4: (8, 0), 6: (128, 129)}  # the ICMP types of an echo request and an echo reply


class Copies:
    """The packets that were seen.

    Each packet is stored with the last acknowledgement number that its receiver has sent.
    """

    def __init__(self) -> None:
        self._seen: dict[object, tuple[int, Any]] = {}

    def has(self, seen: Seen, frame: bytes) -> bool:
        """Returns true if the packet is a copy of an earlier packet. Otherwise stores the packet."""
        meaning = seen.meaning
        if meaning.kind not in ("tcp", "udp", "icmp"):
            return False
        identification = number(frame, meaning.network_at + 4, 2) if meaning.version == 4 else 0
        mark = identification, *_shared(meaning)
        asked = seen.receiver and (seen.receiver.acknowledged, min(seen.receiver.duplicates, 255))
        first_ns, was_asked = self._seen.get(mark, (None, None))
        if first_ns is not None:
            within_ns = self._within(seen, identification, was_asked, asked)
            if within_ns and 0 <= seen.now_ns - first_ns <= within_ns:
                if _may_be_said_twice(meaning, identification):
                    del self._seen[mark]
                elif seen.flow:
                    seen.flow.copied = True
                return True
        self._seen[mark] = seen.now_ns, asked
        return False

    def _within(self, seen: Seen, identification: int, was_asked: Any, asked: Any) -> int:
        """Returns the time in ns within which an equal packet counts as a copy.

        If the time is 0, an equal packet is not a copy.
        """
        meaning = seen.meaning
        if meaning.kind != "tcp":
            asks = _echo(meaning) or _DNS_PORT in (meaning.source[1], meaning.destination[1])
            return UNKNOWN_NS if identification or asks else 0
        if _may_be_said_twice(meaning, identification) and not (seen.flow and seen.flow.copied):
            return 0
        if seen.flow is None or seen.receiver is None or meaning.flags & SYN:
            return COPY_NS
        asks_again = seen.receiver.duplicates >= ASKS_AGAIN and meaning.sequence == seen.receiver.acknowledged
        if asks_again and asked != was_asked:
            return 0
        min_ns = UNKNOWN_NS if identification else WITHOUT_IDENTIFICATION_NS
        return min(max((seen.flow.handshake_ns or 0) // 2, min_ns), COPY_NS)


def _may_be_said_twice(meaning: Meaning, identification: int) -> bool:
    """Returns true if the packet is an ACK or RST that its sender may send again in exactly the same form."""
    return meaning.kind == "tcp" and not identification and not meaning.payload and not meaning.flags & (SYN | FIN)


def _shared(meaning: Meaning) -> tuple[object, ...]:
    """Returns the fields that must be equal in a packet and its copy."""
    ends, kind = (meaning.source, meaning.destination), meaning.kind
    if kind == "tcp":
        numbers = meaning.sequence, meaning.acknowledged, meaning.flags, meaning.window, meaning.is_first_fragment
        return *ends, kind, meaning.payload, meaning.checksum, *numbers, meaning.timestamp
    if kind == "icmp":
        echo = _echo(meaning)
        return *ends, meaning.protocol, meaning.payload, echo, echo and meaning.checksum
    return *ends, kind, meaning.payload, meaning.checksum, meaning.head


def _echo(meaning: Meaning) -> object:
    return meaning.echo if meaning.echo and meaning.echo[0] in _ECHOES[meaning.version] else None
