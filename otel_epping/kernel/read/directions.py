# SPDX-License-Identifier: Apache-2.0
"""Finds out whether both directions of flows pass an interface. Without both directions, no RTTs can be measured.

Usually, the incoming packets and the outgoing packets of an interface are the two directions of a flow (bpf/flow.h).
There are two exceptions:

- On a mirror port, the packets of both directions are incoming packets. So each TCP connection has two flow table
  entries, one entry for each direction.
- With asymmetric routing, the packets of one direction pass one interface, and the packets of the other direction pass
  another interface.

The program does not keep flows of UDP and ICMP. For these protocols, a mirror port is recognized by the slot cache
(bpf/slot_cache.h). At a mirror port, the slot cache contains two entries for a pair of subnets A and B: an entry with A
as the internal subnet, and an entry with B as the internal subnet.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Flags, Records
from otel_epping.kernel.attach.interfaces import Role

_log = logging.getLogger("otel_epping")

# The approximate number of flows whose keys are compared in one scan. If there are more flows, the scan compares only a
# sample of the flows.
_COMPARED = 4096
# One-way flows of an interface are reported if the interface has had at least _MIN_ONE_WAY one-way flows for at least
# _ONE_WAY_NS. Fewer one-way flows can result from stray packets. The minimum time allows packets of the other direction
# to arrive.
_MIN_ONE_WAY = 3
_ONE_WAY_NS = 10_000_000_000
# A direction may be missing if the other direction has at least _MIN_PACKETS packets, and has more than _RARER times as
# many packets as the missing direction.
_RARER = 10
_MIN_PACKETS = 10

_MIRROR = (
    "%s: both directions of TCP flows (%d) arrive the same way, so no RTT is measured: if this interface is a mirror "
    "or TAP port, select it with --mirror instead"
)
_MIRROR_PAIRS = (
    "%s: both directions between subnets (%d pairs) arrive the same way, so no RTT is measured: if this interface is a "
    "mirror or TAP port, select it with --mirror instead"
)
_ONE_WAY = (
    "%s: only one direction of TCP flows (%d) is seen, so their RTTs are not measured: measure at an interface that "
    "both directions pass, or mirror both directions"
)


class Flows(NamedTuple):
    """Numbers of active TCP flows of an interface.

    both_ways  flows with packets of both ends: the packets of one end are incoming, and the packets of the other end
               are outgoing
    same_way   flows with packets of one end only, if another flow has the packets of the other end (at a mirror port)
    one_way    flows with packets of one end only, if no flow has the packets of the other end
    """

    both_ways: int
    same_way: int
    one_way: int

    @property
    def is_mirror(self) -> bool:
        """True if the interface has more pairs of `same_way` flows than `both_ways` flows."""
        return self.same_way // 2 > self.both_ways

    @property
    def is_one_way(self) -> bool:
        """True if more than 90 % of the flows, and at least _MIN_ONE_WAY flows, are `one_way` flows."""
        return self.one_way >= _MIN_ONE_WAY and self.one_way > 9 * (self.both_ways + self.same_way)


_NO_FLOWS = Flows(0, 0, 0)


def share(flows: int) -> int:
    """Returns a number n. The scan compares one out of n flows.

    `flows` is the number of flows with packets of only one end.
    """
    return flows // _COMPARED + 1


def pick(keys: Records, share: int) -> Flags:
    """Selects one flow out of `share` flows. If a connection has two flows, selects both flows or neither flow.

    keys  (n,) records of struct flow_key
    """
    ports = keys["internal_port"].astype(np.int64) + keys["external_port"]
    return np.asarray(ports % share == 0)


def count(answered: Records, keys: Records, share: int) -> dict[int, Flows]:
    """Returns the numbers of flows of each interface, by identifier of the interface.

    answered  (m,) the interface of each active flow with packets of both ends
    keys      (n,) the keys of active flows with packets of one end; a sample which contains one flow out of `share`
              flows
    """
    return_ways = set(_ends(keys, "external", "internal"))
    same_way = np.fromiter((ends in return_ways for ends in _ends(keys, "internal", "external")), np.bool_, len(keys))
    unanswered = keys["interface"]
    length = max(int(interfaces.max(initial=0)) for interfaces in (answered, unanswered)) + 1
    counts = np.stack(
        [
            np.bincount(answered, minlength=length),
            np.bincount(unanswered[same_way], minlength=length) * share,
            np.bincount(unanswered[~same_way], minlength=length) * share,
        ],
        axis=-1,
    )
    return {number: Flows(*counts[number].tolist()) for number in np.flatnonzero(counts.any(axis=1)).tolist()}


def _ends(keys: Records, first: str, second: str) -> list[bytes]:
    """Returns the interface, family, addresses and ports of each key as bytes.

    The address and the port of the end `first` come before the address and the port of the end `second`.
    """
    fields = [keys["interface"], keys["family"]]
    for end in (first, second):
        fields += [keys[end]["half"][:, 0], keys[end]["half"][:, 1], keys[f"{end}_port"]]
    rows = np.stack([field.astype(np.uint64) for field in fields], axis=-1)
    found: list[bytes] = rows.view(np.dtype((np.void, rows.itemsize * len(fields))))[:, 0].tolist()
    return found


def count_pairs(pairs: Records, epoch: int, identifier: int) -> int:
    """Counts the pairs of subnets whose packets of both directions pass the interface in the same direction.

    pairs  the entries of the slot cache: records of struct slot_cache_entry
    """
    tag = pairs["tag"]
    ours = pairs[tag >> np.uint64(8) == epoch << 24 | identifier]
    ends = [np.ascontiguousarray(ours[end]["word"]) for end in ("internal", "external")]
    there, back = ([row.tobytes() for row in np.concatenate(order, axis=1)] for order in (ends, ends[::-1]))
    differ = (ends[0] != ends[1]).any(axis=1)  # packets from a subnet to itself have no direction
    return_ways = set(back)
    return len({way for way, ends_differ in zip(there, differ, strict=True) if ends_differ and way in return_ways}) // 2


class Traffic(NamedTuple):
    """Numbers of packets of an interface, as (received, transmitted).

    segments   packets of TCP
    datagrams  packets of UDP and ICMP together
    """

    segments: tuple[int, int]
    datagrams: tuple[int, int]


def _is_one_way(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Returns true if all or nearly all new packets passed in the same direction."""
    new = now[0] - before[0], now[1] - before[1]
    return max(new) >= _MIN_PACKETS and min(new) * _RARER < max(new)


_NO_TRAFFIC = Traffic((0, 0), (0, 0))


class Directions:
    """The directions of the flows of each interface. Readers of the collector update the directions at each scan.

    Logs each problem once. Only one thread at a time may call the methods. Any thread may read `flows` and `mirrors`.

    now_ns  the clock, in ns; tests replace this clock
    """

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns
        self._flows: dict[int, Flows] = {}
        self._pairs: dict[int, int] = {}
        self._mirrors: frozenset[str] = frozenset()
        self._one_way_since_ns: dict[int, int] = {}
        self._logged: set[tuple[int, str]] = set()
        self._traffic: dict[int, Traffic] = {}  # at the latest scan of the flow table

    @property
    def mirrors(self) -> frozenset[str]:
        """Names of mirror ports whose RTTs are not measured, because the ports are not watched as mirror ports."""
        return self._mirrors

    @property
    def flows(self) -> dict[int, Flows]:
        """Numbers of flows, by identifier of the interface.

        Contains each interface that has ever had a flow with packets of only one end.
        """
        return self._flows

    def suspects(self, traffic: dict[int, Traffic]) -> bool:
        """Returns true if the flow table should be scanned soon.

        The result is true if TCP packets pass an interface in only one direction, and the interface has not been found
        to be a mirror port.
        """
        return any(
            _is_one_way(now.segments, self._traffic.get(each, _NO_TRAFFIC).segments)
            for each, now in traffic.items()
            if not self._flows.get(each, _NO_FLOWS).is_mirror
        )

    def update(
        self, found: dict[int, Flows], names: dict[int, str], roles: dict[int, Role], traffic: dict[int, Traffic]
    ) -> None:
        """Updates the state after a scan of the flow table. The keys of all parameters are interface identifiers."""
        now_ns = self.now_ns()
        self._traffic = traffic
        # `_flows` contains each interface that has ever had a flow with packets of only one end, and the numbers of
        # flows that the latest scan has found on this interface.
        self._flows = {
            each: found.get(each, _NO_FLOWS)
            for each in names
            if each in self._flows or any(found.get(each, _NO_FLOWS)[1:])
        }
        self._logged = {(each, text) for each, text in self._logged if each in names}
        self._one_way_since_ns = {each: at for each, at in self._one_way_since_ns.items() if each in names}
        for each, flows in self._flows.items():
            if not flows.is_one_way:
                self._one_way_since_ns.pop(each, None)
            elif now_ns - self._one_way_since_ns.setdefault(each, now_ns) >= _ONE_WAY_NS:
                self._log_once(each, names[each], _ONE_WAY, flows.one_way)
        self._find_mirrors(names, roles)

    def update_pairs(
        self,
        pairs: Callable[[], Records],
        epoch: int,
        names: dict[int, str],
        roles: dict[int, Role],
        traffic: dict[int, Traffic],
    ) -> None:
        """Updates the state from the slot cache, if UDP and ICMP packets pass an interface in only one direction.

        pairs  a function that returns the entries of the slot cache. The function is called only if the entries are
               needed
        epoch  the epoch of the slots. Entries of earlier epochs are ignored
        """
        one_way = [
            each
            for each, now in traffic.items()
            if each in names and roles.get(each) is not Role.MIRROR and _is_one_way(now.datagrams, (0, 0))
        ]
        unknown = [each for each in one_way if not self._pairs.get(each)]
        if not unknown and not self._pairs:
            return
        self._pairs = {each: self._pairs[each] for each in one_way if each not in unknown}
        if unknown:
            records = pairs()
            self._pairs |= {each: count_pairs(records, epoch, each) for each in unknown}
        self._find_mirrors(names, roles)

    def _find_mirrors(self, names: dict[int, str], roles: dict[int, Role]) -> None:
        mirrors = []
        for each, name in names.items():
            if roles.get(each) is Role.MIRROR:  # the flows may have begun before the interface got this role
                continue
            flows, pairs = self._flows.get(each, _NO_FLOWS), self._pairs.get(each, 0)
            if flows.is_mirror:
                self._log_once(each, name, _MIRROR, flows.same_way // 2)
            elif pairs:
                self._log_once(each, name, _MIRROR_PAIRS, pairs)
            if flows.is_mirror or pairs:
                mirrors.append(name)
        self._mirrors = frozenset(mirrors)

    def _log_once(self, identifier: int, name: str, text: str, number: int) -> None:
        kind = _ONE_WAY if text == _ONE_WAY else _MIRROR
        if (identifier, kind) not in self._logged:
            self._logged.add((identifier, kind))
            _log.warning(text, name, number, extra={"interface": name})
