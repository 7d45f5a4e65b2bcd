# SPDX-License-Identifier: Apache-2.0
"""Finds out whether both directions of flows pass an interface. Without both, there are no RTTs.

Packets that come in and packets that go out are the two directions of a flow (bpf/flow.h). This is different on two
kinds of interfaces:

- On a mirror port, both directions arrive the same way. Each TCP conversation has two flow table entries, and packets
  of one end only are seen in each.
- With asymmetric routing, the other direction passes elsewhere.

UDP and ICMP have no flows. There the slot cache (bpf/slot_cache.h) shows a mirror port: it has an entry for a pair of
subnets, and another entry for the same pair with the ends exchanged.
"""

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from otel_epping.kernel.arrays import Flags, Records
from otel_epping.kernel.attach.interfaces import Role

_log = logging.getLogger("otel_epping")

# Flows whose keys are compared in one scan. If there are more, a sample is compared.
_COMPARED = 4096
# Flows that lack the other direction are reported if there are at least this many, for at least this time. Fewer flows
# may be stray packets. In a shorter time, packets of the other direction may not have come yet.
_MIN_ONE_WAY = 3
_ONE_WAY_NS = 10_000_000_000
# A direction is suspected to be missing if it has fewer than a tenth of the packets of the other direction, of which
# there are at least ten.
_RARER = 10
_MIN_PACKETS = 10

_MIRROR = (
    "%s: both directions of TCP flows (%d) arrive the same way, so nothing is measured: if it is a mirror or TAP port, "
    "name it as --mirror instead"
)
_MIRROR_PAIRS = (
    "%s: both directions between subnets (%d pairs) arrive the same way, so nothing is measured: if it is a mirror or "
    "TAP port, name it as --mirror instead"
)
_ONE_WAY = (
    "%s: only one direction of TCP flows (%d) is seen, so their RTTs are not measured: measure where both directions "
    "pass, or have both mirrored"
)


class Flows(NamedTuple):
    """Numbers of active TCP flows of an interface.

    both_ways  flows with packets of both ends
    same_way   flows with packets of one end, where the other direction is another flow that passes the same way
    one_way    flows with packets of one end, and without the other direction
    """

    both_ways: int
    same_way: int
    one_way: int

    @property
    def is_mirror(self) -> bool:
        """Whether more conversations are two flows that pass the same way than one flow that passes both ways."""
        return self.same_way // 2 > self.both_ways

    @property
    def is_one_way(self) -> bool:
        """Whether more than nine in ten flows lack the other direction."""
        return self.one_way >= _MIN_ONE_WAY and self.one_way > 9 * (self.both_ways + self.same_way)


_NO_FLOWS = Flows(0, 0, 0)


def share(flows: int) -> int:
    """Returns n, where one in n flows is compared. `flows` is the number of flows with packets of one end."""
    return flows // _COMPARED + 1


def pick(keys: Records, share: int) -> Flags:
    """Selects a sample of one in `share` flows. Of a conversation, it has both flows or none.

    keys  (n,) records of struct flow_key
    """
    ports = keys["internal_port"].astype(np.int64) + keys["external_port"]
    return np.asarray(ports % share == 0)


def count(answered: Records, keys: Records, share: int) -> dict[int, Flows]:
    """Returns the flows of each interface, by its identifier.

    answered  (m,) interface of each active flow with packets of both ends
    keys      (n,) keys of a sample, one in `share`, of the active flows with packets of one end
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
    """Returns interface, family, addresses and ports of each key as bytes, end `first` before end `second`."""
    fields = [keys["interface"], keys["family"]]
    for end in (first, second):
        fields += [keys[end]["half"][:, 0], keys[end]["half"][:, 1], keys[f"{end}_port"]]
    rows = np.stack([field.astype(np.uint64) for field in fields], axis=-1)
    found: list[bytes] = rows.view(np.dtype((np.void, rows.itemsize * len(fields))))[:, 0].tolist()
    return found


def count_pairs(pairs: Records, epoch: int, identifier: int) -> int:
    """Counts pairs of subnets whose packets in both directions pass an interface the same way.

    pairs  records of struct slot_cache_entry, the entries of the slot cache
    """
    tag = pairs["tag"]
    ours = pairs[tag >> np.uint64(8) == epoch << 24 | identifier]
    ends = [np.ascontiguousarray(ours[end]["word"]) for end in ("internal", "external")]
    there, back = ([row.tobytes() for row in np.concatenate(order, axis=1)] for order in (ends, ends[::-1]))
    differ = (ends[0] != ends[1]).any(axis=1)  # packets from a subnet to itself have no direction
    return_ways = set(back)
    return len({way for way, ends_differ in zip(there, differ, strict=True) if ends_differ and way in return_ways}) // 2


class Traffic(NamedTuple):
    """Packets of an interface, as (received, transmitted): of TCP, and of UDP and ICMP together."""

    segments: tuple[int, int]
    datagrams: tuple[int, int]


def _is_one_way(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Whether new packets passed in one direction only, or nearly so."""
    new = now[0] - before[0], now[1] - before[1]
    return max(new) >= _MIN_PACKETS and min(new) * _RARER < max(new)


_NO_TRAFFIC = Traffic((0, 0), (0, 0))


class Directions:
    """Directions of the flows of each interface, as the collector's readers found them last. Logs each problem once.

    One thread at a time may call the methods. Any thread may read `flows` and `mirrors`.

    now_ns  the clock, ns; tests replace it
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
        """Names of interfaces that are mirror ports and not watched as mirror ports. They measure no RTTs."""
        return self._mirrors

    @property
    def flows(self) -> dict[int, Flows]:
        """Flows by identifier of the interface, for interfaces that ever had a flow without its other direction."""
        return self._flows

    def suspects(self, traffic: dict[int, Traffic]) -> bool:
        """Whether the flow table should be scanned soon.

        It should if TCP passes an interface in one direction only, and the interface is not yet known as a mirror port.
        """
        return any(
            _is_one_way(now.segments, self._traffic.get(each, _NO_TRAFFIC).segments)
            for each, now in traffic.items()
            if not self._flows.get(each, _NO_FLOWS).is_mirror
        )

    def update(
        self, found: dict[int, Flows], names: dict[int, str], roles: dict[int, Role], traffic: dict[int, Traffic]
    ) -> None:
        """Updates the state after a scan of the flow table. All parameters are by identifier of an interface."""
        now_ns = self.now_ns()
        self._traffic = traffic
        # An interface that had such flows stays listed, with the flows that it has now.
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
        """Updates the state from the slot cache, if UDP and ICMP pass an interface in one direction only.

        pairs  returns the entries of the slot cache; called only if they are needed
        epoch  the epoch of the slots; entries of earlier epochs are ignored
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
            if roles.get(each) is Role.MIRROR:  # its flows may be older than this role
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
