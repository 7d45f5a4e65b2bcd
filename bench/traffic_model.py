# SPDX-License-Identifier: Apache-2.0
"""A model of real traffic, as a stream of mixed packets.

The model uses the shares that Sundberg et al. (IMC 2024) measured for 356 billion packets of a wireless provider: 72 %
of the packets are TCP, and 87 % of the TCP packets have timestamps. The other 28 % of the packets are UDP and a little
ICMP. Half of the TCP packets carry data, and the other half acknowledge the data. In half of the flows the client sends
the data, and in the other half of the flows the server sends the data. Several packets have the same TSval, so that 4 %
of the packets with timestamps complete an RTT sample, as in the study. All packets are IPv4.

The flows that send the packets are selected in one of two ways:

- *Uniform*: each flow sends the next packet with the same probability. If there are many flows, the CPU caches do not
  help.
- *Skewed*: the flows are a sample of the flows that are in a flow table at the same time. The flow lengths have the
  distribution of real traffic, where most flows are short. After its last packet, a flow stays in the table until the
  idle timeout ends. All flows send at the same low rate. If some flows sent faster, most packets would belong to fewer
  flows, and the CPU caches would help more.
"""

import numpy as np
import numpy.typing as npt

from bench.packets import ACK, ACK_NO_TS, DATA, DATA_NO_TS, ECHO, PAYLOAD, UDP, Fields, Packets, put, rows_of
from otel_epping.kernel.arrays import Indexes

Reals = npt.NDArray[np.float64]

_TCP, _WITH_TIMESTAMPS, _ICMP = 0.72, 0.87, 0.003
# The TSval advances after 12 pairs (a data packet and its ACK). So 1 of 24 packets completes an RTT sample.
_PAIRS_OF_A_TSVAL = 12

_PER_S = 20  # each flow sends at this rate, in packets per second, until its last packet
_IDLE_S = 300  # the same as FLOW_IDLE_NS of bpf/flow_maps.h
_DRAWN = 20  # the model draws this many random flow lengths for each flow in the table

# The distribution of flow lengths in packets, from 4 billion flows of a campus network (Jurkiewicz, Rzym, Borylo: "Flow
# length and size distributions in campus Internet traffic", Computer Communications 167, 2021). This distribution is a
# mixture of uniform and log-normal distributions (docs/tutorial.rst of the project flow-models). _SHORT contains the
# shares of six uniform distributions: the first covers flows of 1 packet, the second flows of 1 to 2 packets, and the
# last flows of 1 to 6 packets. _LONG contains the share, sigma and median of each log-normal distribution.
_SHORT = (0.3050, 0.2484, 0.0637, 0.0492, 0.0093, 0.0822)
_LONG = ((0.1313, 0.5207, 7.806), (0.0733, 0.7701, 22.11), (0.0293, 1.1253, 128.6), (0.0083, 1.9838, 1084.5))

_STAMPED, _NO_TS, _UDP, _ECHO = range(4)
_FORMS = {_STAMPED: (DATA, ACK), _NO_TS: (DATA_NO_TS, ACK_NO_TS), _UDP: (UDP, UDP), _ECHO: (ECHO, ECHO)}
_TRANSPORT = Fields.of(4)
_MAX_BYTES = 256


class TrafficModel:
    """A stream of the packets of many flows. Each call of a method returns the next packets of the stream.

    If `skewed` is false, the flows are uniform. The docstring of this module describes skewed and uniform flows.
    """

    def __init__(self, flows: int, subnets: int, *, skewed: bool = False) -> None:
        self._chance = np.random.default_rng(1)
        self._subnets = subnets
        rates = _rates(self._chance, flows) if skewed else np.ones(flows)
        self._upto = np.cumsum(rates) / rates.sum()
        shares = np.cumsum([_TCP * _WITH_TIMESTAMPS, _TCP * (1 - _WITH_TIMESTAMPS), 1 - _TCP - _ICMP])
        self._kind = self._chance.permutation(np.searchsorted(shares, np.arange(flows) / flows, side="right"))
        self._fetches = self._chance.integers(0, 2, flows) == 1
        # For each flow, `_turn` is the number of its packets in the stream so far. The model assumes that `_phase`
        # pairs of packets with the first TSval of the flow were sent before the first packet of the stream.
        self._turn: Indexes = np.zeros(flows, np.int64)
        self._phase: Indexes = self._chance.integers(0, _PAIRS_OF_A_TSVAL, flows)

    def one_of_each(self) -> Packets:
        """Returns the next packet of each flow, in random order."""
        return self._packets(self._chance.permutation(len(self._turn)))

    def packets(self, count: int) -> Packets:
        """Returns the next `count` packets."""
        return self._packets(np.searchsorted(self._upto, self._chance.random(count), side="right"))

    def _packets(self, flows: Indexes) -> Packets:
        turn = self._turn[flows] + _nth(flows)
        np.add.at(self._turn, flows, 1)
        replies = turn % 2 == 1
        # The client sends echo requests. The server sends the data that a client fetches.
        egress = (self._fetches[flows] & (self._kind[flows] != _ECHO)) == replies
        rows = np.zeros((len(flows), _MAX_BYTES), np.uint8)
        sizes = np.zeros(len(flows), np.uint32)
        for kind, forms in _FORMS.items():
            for reply, form in enumerate(forms):
                for out in (False, True):
                    which = np.flatnonzero((self._kind[flows] == kind) & (replies == reply) & (egress == out))
                    made = rows_of(form, flows[which], self._subnets, out)
                    self._number(made, kind, bool(reply), turn[which] // 2, self._phase[flows[which]])
                    sizes[which] = made.shape[1]
                    rows[which, : made.shape[1]] = made
        return Packets(rows, sizes, egress)

    def _number(self, rows: npt.NDArray[np.uint8], kind: int, reply: bool, pair: Indexes, phase: Indexes) -> None:
        """Writes sequence numbers and timestamps into requests or replies.

        `pair` says how many earlier pairs (a data packet and its ACK, or a request and its reply) the flow has.
        """
        if kind == _ECHO:
            put(rows, _TRANSPORT.transport, 0 if reply else 8, 1)
            put(rows, _TRANSPORT.transport + 6, pair & 0xFFFF, 2)
        elif kind in (_STAMPED, _NO_TS):
            put(rows, _TRANSPORT.acknowledgement if reply else _TRANSPORT.sequence, 1 + PAYLOAD * (pair + reply))
        if kind == _STAMPED:
            put(rows, _TRANSPORT.tsval, 1000 + (pair + phase) // _PAIRS_OF_A_TSVAL)
            # A reply echoes the TSval of its request. A request echoes the TSval of the last reply.
            put(rows, _TRANSPORT.tsecr, 1000 + (pair + phase - (not reply)) // _PAIRS_OF_A_TSVAL)


def real_lengths(chance: np.random.Generator, flows: int) -> Reals:
    """Returns `flows` random flow lengths in packets, from the distribution of real traffic."""
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
    """Selects `flows` flows that are in a flow table at the same time. Returns each flow's mean rate in packets/s.

    The mean covers the time from the first packet of the flow until the flow is removed from the table.
    """
    lengths = real_lengths(chance, _DRAWN * flows)
    in_table_s = lengths / _PER_S + _IDLE_S
    found = chance.choice(len(lengths), flows, p=in_table_s / in_table_s.sum())
    rates: Reals = lengths[found] / in_table_s[found]
    return rates


def _nth(flows: Indexes) -> Indexes:
    """Returns, for each element of `flows`, the number of earlier elements with the same flow number."""
    order = np.argsort(flows, kind="stable")
    grouped = flows[order]
    first = np.flatnonzero(np.diff(grouped, prepend=-1))
    nth = np.empty(len(flows), np.int64)
    nth[order] = np.arange(len(flows)) - np.repeat(first, np.diff(first, append=len(flows)))
    return nth
