# SPDX-License-Identifier: Apache-2.0
"""Whether both directions of TCP flows pass an interface, as round-trip times need.

Packets that come in and packets that go out are the two directions of a flow (bpf/flow.h). Two kinds of interfaces
differ. At a mirror port both directions arrive the same way, and the table has two flows for each conversation, of
which only one end was heard. With asymmetric routing the other direction never passes.
"""

import logging
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.interfaces import Role

_log = logging.getLogger("otel_epping")

# Flows whose keys are compared at a time; of more, some are compared.
_COMPARED = 16_384
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
    """What passes each interface, by its number.

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


class Directions:
    """What readers of a collector found last, by number of an interface; logs what keeps from measuring, once.

    For one thread at a time; `flows` and `mirrors` are for any thread.
    """

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns
        self._flows: dict[int, Flows] = {}
        self._mirrors: frozenset[str] = frozenset()
        self._one_way_since_ns: dict[int, int] = {}
        self._logged: set[tuple[int, str]] = set()
        self._packets: dict[int, tuple[int, int]] = {}  # TCP, received and transmitted, when it was last looked

    @property
    def mirrors(self) -> frozenset[str]:
        """Names of the interfaces that are mirror ports, and are not watched as such: nothing is measured there."""
        return self._mirrors

    @property
    def flows(self) -> dict[int, Flows]:
        """By number, of interfaces that had a flow without its other direction."""
        return self._flows

    def suspects(self, packets: dict[int, tuple[int, int]]) -> bool:
        """Whether to look soon: TCP packets, received and transmitted by number, pass an interface in one direction
        only, and no flow with both was found there.
        """
        for number, counts in packets.items():
            new = [now - before for now, before in zip(counts, self._packets.get(number, (0, 0)), strict=True)]
            known = self._flows.get(number)
            if max(new) >= _LEAST_PACKETS and min(new) * _RARER < max(new) and not (known and known.is_mirror):
                return True
        return False

    def take(
        self,
        found: dict[int, Flows],
        names: dict[int, str],
        roles: dict[int, Role],
        packets: dict[int, tuple[int, int]],
    ) -> None:
        """Takes in what a look through the table of flows found; all is by number of an interface."""
        now_ns = self.now_ns()
        self._packets = packets
        # Interfaces that had such flows are kept, with what they have now.
        self._flows = {
            number: found.get(number, _NO_FLOWS)
            for number in names
            if number in self._flows or any(found.get(number, _NO_FLOWS)[1:])
        }
        self._logged = {(number, text) for number, text in self._logged if number in names}
        mirrors = []
        for number, flows in self._flows.items():
            if (
                flows.is_mirror and roles.get(number) is not Role.MIRROR
            ):  # which has flows of the time before it was one
                mirrors.append(names[number])
                self._log_once(number, names[number], _MIRROR, flows.same_way // 2)
            if not flows.is_one_way:
                self._one_way_since_ns.pop(number, None)
            elif now_ns - self._one_way_since_ns.setdefault(number, now_ns) >= _ONE_WAY_NS:
                self._log_once(number, names[number], _ONE_WAY, flows.one_way)
        self._mirrors = frozenset(mirrors)
        self._one_way_since_ns = {number: at for number, at in self._one_way_since_ns.items() if number in names}

    def _log_once(self, number: int, name: str, text: str, flows: int) -> None:
        if (number, text) not in self._logged:
            self._logged.add((number, text))
            _log.warning(text, name, flows, extra={"interface": name, "flows": flows})
