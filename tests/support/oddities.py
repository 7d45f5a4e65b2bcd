# SPDX-License-Identifier: Apache-2.0
"""Unusual TCP conversations with known RTTs: odd timestamps, data in the SYN, lost segments, and packets that are
captured twice.

A client sends requests, a server replies, and the client acknowledges the replies. The RTT between the capture point
and the server is FAR_MS, and the RTT between the capture point and the client is NEAR_MS. So with each method, every
RTT of the server is FAR_MS, and every RTT of the client is NEAR_MS. Any other RTT is wrong. `Talk.rtts` has the number
of RTTs that each method gives if it measures every exchange.

    from tests.support.oddities import ODDITIES
    talk = ODDITIES["timestamps stop"](version=6)
    capture = talk.transcript.write(folder)      # PATH of a pcap file
    talk.rtts["tcp_sequence", SERVER]            # the number of RTTs; the key is (method, endpoint)
    talk.transcript.sender(frame)                # CLIENT or SERVER; frames count from 1
    talk.far_ms, talk.near_ms, talk.copies, talk.retransmitted

    python -m tests.support.oddities FOLDER   # writes all conversations over IPv4 and IPv6, and lists the RTTs
"""

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from tests.support.transcript import Transcript

CLIENT, SERVER = 0, 1
FAR_MS, NEAR_MS = 30.0, 1.0
REQUEST, ANSWER = 100, 200  # bytes of payload
EXCHANGES = 30
# With this start time, exchanges begin near the end of a tick of the timestamp clocks. So a retransmission shortly
# afterwards is in the next tick, and has a later TSval.
_BEGIN_MS, _GAP_MS = 100.9, 200.0
# With this start time, exchanges begin near the start of a tick. So a packet shortly afterwards is in the same tick.
_EAGER_BEGIN_MS, _EAGER_MS = 100.1, 0.02
# The handshake has this exchange number, because it comes before exchange 0.
HANDSHAKE = -1
_WORD = 1 << 32

# (ms since the start of the conversation, number of the exchange or HANDSHAKE) -> TSval, or None if the segment has no
# timestamp
Clock = Callable[[float, int], int | None]


def running(at_ms: float, exchange: int) -> int | None:
    """A timestamp clock like Linux's, with one tick per ms."""
    return 1_000_000 + int(at_ms)


def wrapping(at_ms: float, exchange: int) -> int | None:
    """A clock that wraps around at 2^32 in the middle of the conversation."""
    return (_WORD - 3000 + int(at_ms)) % _WORD


def constant(value: int) -> Clock:
    return lambda at_ms, exchange: value


def absent(at_ms: float, exchange: int) -> int | None:
    return None


def handshake_only(at_ms: float, exchange: int) -> int | None:
    return running(at_ms, exchange) if exchange == HANDSHAKE else None


def changing(*phases: tuple[int, Clock]) -> Clock:
    """The clock `running` until the first phase, then the clock of each phase. A phase is (exchange, clock): the clock
    is used from this exchange until the next phase."""

    def clock(at_ms: float, exchange: int) -> int | None:
        current = [phase for begin, phase in phases if exchange >= begin]
        return (current[-1] if current else running)(at_ms, exchange)

    return clock


def frozen(begin: int, end: int = EXCHANGES) -> Clock:
    """A clock that stands still from exchange `begin` until exchange `end`."""
    value = running(_BEGIN_MS + begin * _GAP_MS, begin)
    assert value is not None
    return changing((begin, constant(value)), (end, running))


class Talk:
    """One conversation.

    clocks          the timestamp clocks of client and server
    fast_open       the number of bytes of the request in the SYN (RFC 7413)
    refused         the server does not accept these bytes, so the client sends them again after the handshake
    early           the server sends its first reply before the client has acknowledged the SYN-ACK
    eager           the client acknowledges a reply and sends the next request within the same tick of its clock
    lossy           every fourth request is lost after the capture, and retransmitted after three duplicate ACKs
    copy_after_ms   each packet is captured again after this time, when it has passed `hops` routers
    """

    def __init__(
        self,
        *clocks: Clock,
        version: int = 4,
        far_ms: float = FAR_MS,
        near_ms: float = NEAR_MS,
        fast_open: int = 0,
        refused: bool = False,
        early: bool = False,
        eager: bool = False,
        lossy: bool = False,
        copy_after_ms: float = 0,
        hops: int = 0,
    ) -> None:
        self.transcript = Transcript(version)
        self.far_ms, self.near_ms = far_ms, near_ms
        self.rtts: Counter[tuple[str, int]] = Counter()
        self.copies = self.retransmitted = 0
        self._clocks = clocks or (running, running)
        self._copy_after_ms, self._hops = copy_after_ms, hops
        self._next = [1000, 500_000]  # The next sequence number of each endpoint.
        self._latest: list[int | None] = [None, None]  # The latest TSval of each endpoint.
        self._shake_hands(fast_open, refused, early)
        for exchange in range(EXCHANGES):
            at_ms = _BEGIN_MS + exchange * _GAP_MS
            if eager:
                at_ms = _EAGER_BEGIN_MS + exchange * (far_ms + near_ms + _EAGER_MS)
            if lossy and exchange % 4 == 2:
                self._lose(at_ms, exchange)
            else:
                self._ask(at_ms, exchange)
                self._answer(at_ms + far_ms, exchange)

    def _shake_hands(self, fast_open: int, refused: bool, early: bool) -> None:
        begun_ms = 0.5
        answered_ms = begun_ms + self.far_ms
        self._segment(begun_ms, CLIENT, "S", HANDSHAKE, fast_open)
        if refused:
            self._next[CLIENT] -= fast_open
        self._segment(answered_ms, SERVER, "SA", HANDSHAKE)
        early_ms = answered_ms + 0.7 * self.near_ms
        accepted, accepted_echo = self._next[SERVER], self._echo(CLIENT)
        if early:
            self.rtts[self._method(SERVER, early_ms, early_ms + self.near_ms, HANDSHAKE), CLIENT] += 1
            self._segment(early_ms, SERVER, "PA", HANDSHAKE, ANSWER)
        self._segment(answered_ms + self.near_ms, CLIENT, "A", HANDSHAKE, ack=accepted, echo=accepted_echo)
        self.rtts["tcp_handshake", SERVER] += 1
        self.rtts["tcp_handshake", CLIENT] += 1
        if early:
            self._segment(early_ms + self.near_ms, CLIENT, "A", HANDSHAKE)
        if refused:
            again_ms = answered_ms + 2 * self.near_ms
            self._ask(again_ms, HANDSHAKE, fast_open)
            self._segment(again_ms + self.far_ms, SERVER, "A", HANDSHAKE)

    def _ask(self, at_ms: float, exchange: int, size: int = REQUEST) -> None:
        """Send a request. The RTT from the request to the reply is recorded for the server."""
        self.rtts[self._method(CLIENT, at_ms, at_ms + self.far_ms, exchange), SERVER] += 1
        self._segment(at_ms, CLIENT, "PA", exchange, size)

    def _answer(self, at_ms: float, exchange: int) -> None:
        """Send the reply and its acknowledgement."""
        self.rtts[self._method(SERVER, at_ms, at_ms + self.near_ms, exchange), CLIENT] += 1
        self._segment(at_ms, SERVER, "PA", exchange, ANSWER)
        self._segment(at_ms + self.near_ms, CLIENT, "A", exchange)

    def _lose(self, at_ms: float, exchange: int) -> None:
        """Send four segments, the first of which is lost, and a fast retransmission (RFC 5681 section 3.2).

        With timestamps, the retransmission gives an RTT, because its TSval is new. Without timestamps, the
        retransmission gives no RTT (Karn's rule).
        """
        spacing_ms = self.far_ms / 100
        lost, echo = self._next[CLIENT], self._echo(SERVER)
        for place in range(4):
            self._segment(at_ms + place * spacing_ms, CLIENT, "PA", exchange, REQUEST)
        for place in range(1, 4):
            self._segment(at_ms + self.far_ms + place * spacing_ms, SERVER, "A", exchange, ack=lost, echo=echo)
        again_ms = at_ms + self.far_ms + 4 * spacing_ms
        if self._method(CLIENT, again_ms, again_ms + self.far_ms, exchange) == "tcp_timestamp":
            self.rtts["tcp_timestamp", SERVER] += 1
        self._segment(again_ms, CLIENT, "PA", exchange, REQUEST, seq=lost)
        self.retransmitted += 1
        self._answer(again_ms + self.far_ms, exchange)

    def _method(self, sender: int, at_ms: float, answered_ms: float, exchange: int) -> str:
        """Return the method that gives the RTT of data from `sender`: tcp_timestamp if the sender's TSval advances and
        is echoed, otherwise tcp_sequence."""
        value, latest = self._clocks[sender](at_ms, exchange), self._latest[sender]
        echoed = self._clocks[1 - sender](answered_ms, exchange) is not None
        advances = value is not None and (latest is None or 0 < (value - latest) % _WORD < _WORD // 2)
        return "tcp_timestamp" if advances and echoed else "tcp_sequence"

    def _segment(
        self,
        at_ms: float,
        sender: int,
        flags: str,
        exchange: int,
        size: int = 0,
        seq: int | None = None,
        ack: int | None = None,
        echo: int | None = None,
    ) -> None:
        value = self._clocks[sender](at_ms, exchange)
        times = None if value is None else (value, self._echo(sender) if echo is None else echo)
        if flags == "S":
            ack = 0
        elif ack is None:
            ack = self._next[1 - sender]
        number = self._next[sender] if seq is None else seq
        frame = self.transcript.segment(at_ms, sender, flags, times, size, seq=number, ack=ack)
        if seq is None:
            self._next[sender] += size + ("S" in flags)
        if value is not None:
            self._latest[sender] = value
        if self._copy_after_ms:
            self.transcript.copy(at_ms + self._copy_after_ms, frame, self._hops)
            self.copies += 1

    def _echo(self, sender: int) -> int:
        """Return TS.Recent (RFC 7323 section 4.3), the last TSval of the other endpoint."""
        return self._latest[1 - sender] or 0


_zero = constant(0)
_MIDWAY, _BACK = 10, 20
_gone = changing((_MIDWAY, absent))
_gone_for_a_while = changing((_MIDWAY, absent), (_BACK, running))
_zeroed = changing((_MIDWAY, _zero))
_copied = partial(Talk, copy_after_ms=0.06)

# name -> conversation; each function takes the argument `version`
ODDITIES: dict[str, Callable[..., Talk]] = {
    "plain": Talk,
    "timestamps wrap": partial(Talk, wrapping, wrapping),
    "no timestamps": partial(Talk, absent, absent),
    # ---- timestamps are absent
    "timestamps stop after the handshake": partial(Talk, handshake_only, handshake_only),
    "timestamps of the client stop after the handshake": partial(Talk, handshake_only, running),
    "timestamps of the server stop after the handshake": partial(Talk, running, handshake_only),
    "timestamps of the client alone": partial(Talk, running, absent),
    "timestamps stop": partial(Talk, _gone, _gone),
    "timestamps of the client stop": partial(Talk, _gone, running),
    "timestamps of the server stop": partial(Talk, running, _gone),
    "timestamps stop and return": partial(Talk, _gone_for_a_while, _gone_for_a_while),
    "timestamps of the client stop and return": partial(Talk, _gone_for_a_while, running),
    # ---- timestamps stand still
    "timestamps stand still": partial(Talk, constant(1234), constant(5678)),
    "timestamps of the client stand still": partial(Talk, constant(1234), running),
    "timestamps of the server stand still": partial(Talk, running, constant(5678)),
    "timestamps freeze": partial(Talk, frozen(_MIDWAY), frozen(_MIDWAY)),
    "timestamps of the client freeze": partial(Talk, frozen(_MIDWAY), running),
    "timestamps of the server freeze": partial(Talk, running, frozen(_MIDWAY)),
    "timestamps freeze and return": partial(Talk, frozen(_MIDWAY, _BACK), frozen(_MIDWAY, _BACK)),
    # ---- timestamps are zero
    "timestamps are zero": partial(Talk, _zero, _zero),
    "timestamps of the client are zero": partial(Talk, _zero, running),
    "timestamps of the server are zero": partial(Talk, running, _zero),
    "timestamps become zero": partial(Talk, _zeroed, _zeroed),
    # ---- a pure ACK before the request has the same TSval
    "requests follow acknowledgements": partial(Talk, eager=True),
    "requests follow acknowledgements without timestamps": partial(Talk, absent, absent, eager=True),
    # ---- lost segments
    "lossy": partial(Talk, lossy=True),
    "lossy without timestamps": partial(Talk, absent, absent, lossy=True),
    "lossy, timestamps stop": partial(Talk, _gone, _gone, lossy=True),
    "lossy, timestamps freeze": partial(Talk, frozen(_MIDWAY - 1), frozen(_MIDWAY - 1), lossy=True),
    # The clock stops at the lost segment, so this segment and its retransmission have the same TSval. The echo of this
    # TSval gives no RTT.
    "lost as timestamps freeze": partial(Talk, frozen(_MIDWAY), frozen(_MIDWAY), lossy=True),
    # ---- TCP fast open
    "fast open": partial(Talk, fast_open=50),
    "fast open without timestamps": partial(Talk, absent, absent, fast_open=50),
    "fast open refused": partial(Talk, fast_open=50, refused=True),
    "fast open refused without timestamps": partial(Talk, absent, absent, fast_open=50, refused=True),
    "fast open answered early": partial(Talk, fast_open=50, early=True),
    "fast open answered early without timestamps": partial(Talk, absent, absent, fast_open=50, early=True),
    # ---- every packet captured twice
    **{f"copied after {1000 * ms:.0f} us": partial(Talk, copy_after_ms=ms) for ms in (0.02, 0.06, 0.1)},
    "copied without timestamps": partial(_copied, absent, absent),
    "copied behind a router": partial(_copied, hops=1),
    "copied behind a router without timestamps": partial(_copied, absent, absent, hops=1),
    "copied, timestamps stop": partial(_copied, _gone, _gone),
    "copied, fast open": partial(_copied, fast_open=50),
    "copied and lossy": partial(_copied, lossy=True),
    "copied and lossy without timestamps": partial(_copied, absent, absent, lossy=True),
    # Real fast retransmissions, 0.6 ms or 83 us after the first transmission. Without timestamps, the two transmissions
    # differ only in the identification of the IPv4 header. With IPv6, the two transmissions are equal, but duplicate
    # ACKs come between them.
    "lossy in a data centre": partial(Talk, far_ms=0.6, near_ms=0.1, lossy=True),
    "lossy in a data centre without timestamps": partial(Talk, absent, absent, far_ms=0.6, near_ms=0.1, lossy=True),
    "lossy at a switch without timestamps": partial(Talk, absent, absent, far_ms=0.08, near_ms=0.02, lossy=True),
}


def write(folder: Path) -> None:
    """Write all conversations as NNv4.pcap and NNv6.pcap, and print the expected RTTs of each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (name, make) in zip(count(1), ODDITIES.items(), strict=False):
        for version in (4, 6):
            talk = make(version=version)
            path = talk.transcript.write(folder, f"{number:02}v{version}")
            expected = ", ".join(
                f"{amount} {method} of the {('client', 'server')[end]}" for (method, end), amount in talk.rtts.items()
            )
            print(f"{path}: {name}: {expected}; {talk.copies} copies, {talk.retransmitted} retransmissions")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
