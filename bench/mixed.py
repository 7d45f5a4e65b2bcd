# SPDX-License-Identifier: Apache-2.0
"""A mix of packets as real traffic has it.

The shares are those of a wireless provider (Sundberg et al., IMC 2024: 356 billion packets): 72 % TCP, 87 % of it with
timestamps, the rest UDP and a little ICMP. Half of the TCP packets are data, and half acknowledge it; half of the flows
send, and half fetch. A TSval goes on for a while before it advances, so that 4 % of the packets with timestamps end an
RTT, as there. All is IPv4.

Which flow a packet is of: any of them, all alike, so that with many of them no cache is of help; or, *uneven*, one of
those that a table would have at one time. Their lengths are as in real traffic, where most flows are short, and each is
there while it lasts, and for as long as it is remembered after that. All are as fast, and rather slow: if some were
faster, fewer flows would have most of the packets, and caches would help more.
"""

import numpy as np
import numpy.typing as npt

from bench.packets import ACK, ACK_BARE, DATA, DATA_BARE, ECHO, PAYLOAD, UDP, Fields, Numbers, Packets, put, rows_of

Reals = npt.NDArray[np.float64]

_TCP, _WITH_TIMESTAMPS, _ICMP = 0.72, 0.87, 0.003
# Pairs of a packet with data and its acknowledgement until the TSval advances: of 24 packets, 1 ends an RTT.
_PAIRS_OF_A_TSVAL = 12

_PER_S = 20  # packets of a flow while it lasts
_REMEMBERED_S = 300  # FLOW_IDLE_NS of bpf/flow_maps.h
_OF_EACH = 20  # flows that there ever were, for each that is active

# How many packets a flow has, of 4 billion flows of a campus (Jurkiewicz, Rzym, Borylo: "Flow length and size
# distributions in campus Internet traffic", Computer Communications 167, 2021; the mixture is that of flow-models,
# docs/tutorial.rst). The share of flows with any number from 1 to 1, 2, ... 6, and then (share, sigma, median) of
# log-normal ones.
_SHORT = (0.3050, 0.2484, 0.0637, 0.0492, 0.0093, 0.0822)
_LONG = ((0.1313, 0.5207, 7.806), (0.0733, 0.7701, 22.11), (0.0293, 1.1253, 128.6), (0.0083, 1.9838, 1084.5))

_STAMPED, _BARE, _UDP, _ECHO = range(4)
_FORMS = {_STAMPED: (DATA, ACK), _BARE: (DATA_BARE, ACK_BARE), _UDP: (UDP, UDP), _ECHO: (ECHO, ECHO)}
_TRANSPORT = Fields.of(4)
_MOST_BYTES = 256


class Mixed:
    """Conversations of many flows, as one stream of packets: each call goes on where the one before ended.

    `uneven`: see the head of this file.
    """

    def __init__(self, flows: int, subnets: int, *, uneven: bool = False) -> None:
        self._chance = np.random.default_rng(1)
        self._subnets = subnets
        rates = _rates(self._chance, flows) if uneven else np.ones(flows)
        self._upto = np.cumsum(rates) / rates.sum()
        shares = np.cumsum([_TCP * _WITH_TIMESTAMPS, _TCP * (1 - _WITH_TIMESTAMPS), 1 - _TCP - _ICMP])
        self._kind = self._chance.permutation(np.searchsorted(shares, np.arange(flows) / flows, side="right"))
        self._fetches = self._chance.integers(0, 2, flows) == 1
        # Packets of each flow so far, and where in the life of a TSval it began.
        self._turn: Numbers = np.zeros(flows, np.int64)
        self._phase: Numbers = self._chance.integers(0, _PAIRS_OF_A_TSVAL, flows)

    def one_of_each(self) -> Packets:
        """The next packet of each flow, in an order without pattern."""
        return self._packets(self._chance.permutation(len(self._turn)))

    def any(self, count: int) -> Packets:
        """As many packets, each of any flow."""
        return self._packets(np.searchsorted(self._upto, self._chance.random(count), side="right"))

    def _packets(self, flows: Numbers) -> Packets:
        turn = self._turn[flows] + _nth(flows)
        np.add.at(self._turn, flows, 1)
        answers = turn % 2 == 1
        # Echo requests come from the client, data from the server if it is fetched.
        egress = (self._fetches[flows] & (self._kind[flows] != _ECHO)) == answers
        rows = np.zeros((len(flows), _MOST_BYTES), np.uint8)
        sizes = np.zeros(len(flows), np.uint32)
        for kind, forms in _FORMS.items():
            for answer, form in enumerate(forms):
                for out in (False, True):
                    which = np.flatnonzero((self._kind[flows] == kind) & (answers == answer) & (egress == out))
                    made = rows_of(form, flows[which], self._subnets, out)
                    self._say(made, kind, bool(answer), turn[which] // 2, self._phase[flows[which]])
                    sizes[which] = made.shape[1]
                    rows[which, : made.shape[1]] = made
        return Packets(rows, sizes, egress)

    def _say(self, rows: npt.NDArray[np.uint8], kind: int, answer: bool, pair: Numbers, phase: Numbers) -> None:
        """Numbers of sequence and time of a question or answer, the `pair`th of its flow."""
        if kind == _ECHO:
            put(rows, _TRANSPORT.transport, 0 if answer else 8, 1)
            put(rows, _TRANSPORT.transport + 6, pair & 0xFFFF, 2)
        elif kind in (_STAMPED, _BARE):
            put(rows, _TRANSPORT.acknowledgement if answer else _TRANSPORT.sequence, 1 + PAYLOAD * (pair + answer))
        if kind == _STAMPED:
            put(rows, _TRANSPORT.tsval, 1000 + (pair + phase) // _PAIRS_OF_A_TSVAL)
            # An answer echoes what it answers, and data the last answer before it.
            put(rows, _TRANSPORT.tsecr, 1000 + (pair + phase - (not answer)) // _PAIRS_OF_A_TSVAL)


def real_lengths(chance: np.random.Generator, flows: int) -> Reals:
    """Of so many flows, in packets."""
    shares = np.array([*_SHORT, *(share for share, _, _ in _LONG)])
    kind = chance.choice(len(shares), flows, p=shares / shares.sum())
    lengths = np.empty(flows)
    for number in range(len(_SHORT)):
        its = kind == number
        lengths[its] = chance.integers(1, 1 + number, its.sum(), endpoint=True)
    for number, (_, sigma, median) in enumerate(_LONG, len(_SHORT)):
        its = kind == number
        lengths[its] = np.ceil(chance.lognormal(np.log(median), sigma, its.sum()))
    return lengths


def _rates(chance: np.random.Generator, flows: int) -> Reals:
    """Packets a second of so many flows that are active at one time, on an average of the time that they are."""
    lengths = real_lengths(chance, _OF_EACH * flows)
    active_s = lengths / _PER_S + _REMEMBERED_S
    found = chance.choice(len(lengths), flows, p=active_s / active_s.sum())
    rates: Reals = lengths[found] / active_s[found]
    return rates


def _nth(flows: Numbers) -> Numbers:
    """For each place, how many times the same flow came before."""
    order = np.argsort(flows, kind="stable")
    grouped = flows[order]
    first = np.flatnonzero(np.diff(grouped, prepend=-1))
    nth = np.empty(len(flows), np.int64)
    nth[order] = np.arange(len(flows)) - np.repeat(first, np.diff(first, append=len(flows)))
    return nth
