# SPDX-License-Identifier: Apache-2.0
"""Whether both directions of flows pass an interface, as round-trip times need.

Packets that come in and packets that go out are the two directions of a flow (bpf/flow.h). Two kinds of interfaces
differ. At a mirror port both directions arrive the same way, and the table has two flows for each TCP conversation, of
which only one end was heard. With asymmetric routing the other direction never passes.

UDP and ICMP have no flows. There the slot cache, a table of pairs of subnets (bpf/slot_cache.h), shows a mirror port:
it has a pair twice, with its ends exchanged.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.interfaces import Role

_log = logging.getLogger("otel_epping")

# Flows whose keys are compared at a time; of more, some are compared.
_COMPARED = 4096
# How many flows, and for how long, until a missing direction is more than a flow just joined, or a stray packet.
_LEAST_ONE_WAY = 3
_ONE_WAY_NS = 10_000_000_000
# How many times rarer the packets of one direction are where a direction may be missing, and out of how many.
_RARER = 10
_LEAST_PACKETS = 10

_MIRROR = (
    "%s: both directions of TCP flows (%d) arrive the same way, so nothing is measured: if it is a mirror or TAP port, "
    "name it as --mirror instead"
)
_MIRROR_PAIRS = (
    "%s: both directions between subnets (%d pairs) arrive the same way, so nothing is measured: if it is a mirror or "
    "TAP port, name it as --mirror instead"
)
_ONE_WAY = (
    "%s: only one direction of TCP flows (%d) is seen, so nothing of them is measured: measure where both directions "
    "pass, or have both mirrored"
)


class Flows(NamedTuple):
    """Active TCP flows of an interface.

    both_ways  those of which both ends were heard
    same_way   those of which one end was heard, while the other direction is a flow that passes the same way
    one_way    those of which one end was heard, and the other direction never
    """

    both_ways: int
    same_way: int
    one_way: int

    @property
    def is_mirror(self) -> bool:
        """Whether more conversations pass as on a mirror port than otherwise."""
        return self.same_way // 2 > self.both_ways

    @property
    def is_one_way(self) -> bool:
        """Whether nine in ten flows lack the other direction."""
        return self.one_way >= _LEAST_ONE_WAY and self.one_way > 9 * (self.both_ways + self.same_way)


_NO_FLOWS = Flows(0, 0, 0)


def share(flows: int) -> int:
    """One in how many flows of which one end was heard is compared with the others."""
    return flows // _COMPARED + 1


def pick(keys: npt.NDArray[Any], share: int) -> npt.NDArray[np.bool_]:
    """Which flows are compared, of their keys (struct flow_key), (n,): by what both directions have in common."""
    ports = keys["internal_port"].astype(np.int64) + keys["external_port"]
    return np.asarray(ports % share == 0)


def count(answered: npt.NDArray[Any], keys: npt.NDArray[Any], share: int) -> dict[int, Flows]:
    """What passes each interface, by its identifier.

    answered  (m,) the interface of each active flow of which both ends were heard
    keys      (n,) the key of one in `share` of the active flows of which one end was heard
    """
    return_ways = set(_ends(keys, "external", "internal"))
    same_way = np.fromiter((ends in return_ways for ends in _ends(keys, "internal", "external")), np.bool_, len(keys))
    alone = keys["interface"]
    length = max(int(numbers.max(initial=0)) for numbers in (answered, alone)) + 1
    counts = np.stack(
        [
            np.bincount(answered, minlength=length),
            np.bincount(alone[same_way], minlength=length) * share,
            np.bincount(alone[~same_way], minlength=length) * share,
        ],
        axis=-1,
    )
    return {number: Flows(*counts[number].tolist()) for number in np.flatnonzero(counts.any(axis=1)).tolist()}


def _ends(keys: npt.NDArray[Any], first: str, second: str) -> list[bytes]:
    """Interface, family, addresses and ports of each key as bytes, one end after the other."""
    fields = [keys["interface"], keys["family"]]
    for end in (first, second):
        fields += [keys[end]["half"][:, 0], keys[end]["half"][:, 1], keys[f"{end}_port"]]
    rows = np.stack([field.astype(np.uint64) for field in fields], axis=-1)
    found: list[bytes] = rows.view(np.dtype((np.void, rows.itemsize * len(fields))))[:, 0].tolist()
    return found


def count_pairs(pairs: npt.NDArray[Any], epoch: int, identifier: int) -> int:
    """How many pairs of subnets there are of which each sends the other packets that pass an interface the same way.

    `pairs` are records of struct slot_cache_entry.
    """
    tag = pairs["tag"]
    ours = pairs[tag >> np.uint64(8) == epoch << 24 | identifier]
    ends = [np.ascontiguousarray(ours[end]["word"]) for end in ("internal", "external")]
    there, back = ([row.tobytes() for row in np.concatenate(order, axis=1)] for order in (ends, ends[::-1]))
    apart = (ends[0] != ends[1]).any(axis=1)  # what a subnet sends to itself tells nothing
    return_ways = set(back)
    return len({way for way, is_apart in zip(there, apart, strict=True) if is_apart and way in return_ways}) // 2


class Traffic(NamedTuple):
    """Packets that passed an interface: received and transmitted ones of TCP, and of UDP and ICMP."""

    segments: tuple[int, int]
    datagrams: tuple[int, int]


def _is_one_way(now: tuple[int, int], before: tuple[int, int]) -> bool:
    """Whether packets passed in one direction only, or nearly so."""
    new = now[0] - before[0], now[1] - before[1]
    return max(new) >= _LEAST_PACKETS and min(new) * _RARER < max(new)


_NO_TRAFFIC = Traffic((0, 0), (0, 0))


class Directions:
    """What readers of a collector found last, by identifier of an interface; logs what keeps from measuring, once.

    For one thread at a time; `flows` and `mirrors` are for any thread.
    """

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns
        self._flows: dict[int, Flows] = {}
        self._pairs: dict[int, int] = {}
        self._mirrors: frozenset[str] = frozenset()
        self._one_way_since_ns: dict[int, int] = {}
        self._logged: set[tuple[int, str]] = set()
        self._traffic: dict[int, Traffic] = {}  # when the table of flows was last looked through

    @property
    def mirrors(self) -> frozenset[str]:
        """Names of the interfaces that are mirror ports, and are not watched as such: nothing is measured there."""
        return self._mirrors

    @property
    def flows(self) -> dict[int, Flows]:
        """Of interfaces that had a flow without its other direction."""
        return self._flows

    def suspects(self, traffic: dict[int, Traffic]) -> bool:
        """Whether to look through the table of flows soon: TCP passes an interface in one direction only, and it is not
        known as a mirror port.
        """
        return any(
            _is_one_way(now.segments, self._traffic.get(each, _NO_TRAFFIC).segments)
            for each, now in traffic.items()
            if not self._flows.get(each, _NO_FLOWS).is_mirror
        )

    def take(
        self, found: dict[int, Flows], names: dict[int, str], roles: dict[int, Role], traffic: dict[int, Traffic]
    ) -> None:
        """Takes in what a look through the table of flows found."""
        now_ns = self.now_ns()
        self._traffic = traffic
        # Interfaces that had such flows are kept, with what they have now.
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
        self._judge(names, roles)

    def take_pairs(
        self,
        pairs: Callable[[], npt.NDArray[Any]],
        epoch: int,
        names: dict[int, str],
        roles: dict[int, Role],
        traffic: dict[int, Traffic],
    ) -> None:
        """Looks through the table of pairs, if UDP and ICMP pass an interface in one direction only."""
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
        self._judge(names, roles)

    def _judge(self, names: dict[int, str], roles: dict[int, Role]) -> None:
        mirrors = []
        for each, name in names.items():
            if roles.get(each) is Role.MIRROR:  # it may have flows of the time before it was watched as one
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
