# SPDX-License-Identifier: Apache-2.0
"""Others' qdiscs and filters on the same interface, and an interface that goes and comes again."""

import re
import time
from collections.abc import Callable

from otel_epping.kernel import tcx
from vm.guest import traffic
from vm.guest.agent import Agent, judged
from vm.guest.network import Pair
from vm.guest.results import Results

_HOOKS = ("auto", "clsact")
# Numbers, and the name of the hook that the last filter of all was put on or taken from.
_CHANGING = re.compile(r"\b(id|tag|index|ref|bind) \S+|(?<=^filter )(parent ffff:|ingress|egress) ?|\s+$")
_ACCEPTING = "accepting filter of others"


def check(results: Results) -> None:
    """Each of _CASES on an interface of its own. Nothing of the others may change."""
    pair = Pair()
    traffic.Server(pair.far)
    for number, (name, prepare) in enumerate(_CASES.items(), 1):
        near = f"near{number}"
        pair.veth(near, f"far{number}", f"10.{number}.0")
        with results.attempt(name):
            for command in prepare(number):
                pair.near.run("tc", *command.split())
            for hook in _HOOKS:
                _beside(results, name, pair, number, hook)
    with results.attempt("interface goes and comes again"):
        _again(results, pair)


def _netem_and_filters(number: int) -> list[str]:
    """A delay of the host itself, and filters behind which others follow."""
    near = f"near{number}"
    return [
        f"qdisc add dev {near} root netem delay 10ms limit 10000",
        f"qdisc add dev {near} clsact",
        f"filter add dev {near} ingress pref 100 protocol ip u32 match ip dst 10.{number}.0.1/32"
        " action skbedit mark 7 continue",
        f"filter add dev {near} egress pref 100 protocol ip u32 match ip dst 192.0.2.4/32 action drop",
    ]


def _ingress_qdisc(number: int) -> list[str]:
    """The ingress qdisc instead of clsact: there can be one of them only, and ingress has no filters for egress."""
    near = f"near{number}"
    return [
        f"qdisc add dev {near} ingress",
        f"filter add dev {near} parent ffff: protocol all pref 5 matchall action continue",
    ]


def _accepting_filter(number: int) -> list[str]:
    """A filter that accepts every packet: those behind it see none."""
    near = f"near{number}"
    return [
        f"qdisc add dev {near} clsact",
        f"filter add dev {near} ingress pref 1 protocol all matchall action ok",
    ]


_CASES: dict[str, Callable[[int], list[str]]] = {
    "netem and filters of others": _netem_and_filters,
    "ingress qdisc of others": _ingress_qdisc,
    _ACCEPTING: _accepting_filter,
}


def _beside(results: Results, case: str, pair: Pair, number: int, hook: str) -> None:
    name = f"{case}, {hook}"
    near, address = f"near{number}", f"10.{number}.0.2"
    before = _state(pair, near)
    agent = Agent(f"neighbours {name}", pair.near, [near], "--hook", hook)
    clock = traffic.talk(pair.near, [(address, "")], bulk=300_000)[address]
    code = agent.stop()
    after = _state(pair, near)
    rtt = agent.rtts().get((near, f"10.{number}.0.0/24", "tcp_timestamp"))
    ok, text = judged(rtt, "tcp_timestamp", clock.exchange_ms)
    limit = {}
    if case == _ACCEPTING and (hook == "clsact" or not tcx.is_known()):
        limit = {"limit": "filters behind it see no packets"}
        ok = rtt is None
    same = "unchanged" if before == after else f"CHANGED from {before} to {after}"
    if not ok:
        text += f"; log: {agent.log[-600:]}"
    text = f"{text}; others' qdiscs and filters {same}; exit code {code}; {clock.error}".removesuffix("; ")
    results.tell(name, ok and before == after and code == 0 and not clock.error, text, **limit)


def _state(pair: Pair, device: str) -> list[str]:
    """Return the qdiscs and filters of a device, without what changes by itself."""
    shown = pair.near.run("tc", "qdisc", "show", "dev", device)
    for side in ("ingress", "egress"):
        shown += pair.near.run("tc", "filter", "show", "dev", device, side)
    return [_CHANGING.sub("", line) for line in shown.splitlines()]


def _again(results: Results, pair: Pair) -> None:
    address, subnet = "10.9.0.2", "10.9.0.0/24"
    pair.veth("near9", "far9", "10.9.0")
    agent = Agent("neighbours again", pair.near, ["near9"])
    traffic.talk(pair.near, [(address, "")], connections=1, turns=2)
    pair.near.ip("link delete near9")
    time.sleep(3)
    pair.veth("near9", "far9", "10.9.0")
    time.sleep(6)
    clock = traffic.talk(pair.near, [(address, "")], connections=5)[address]
    code = agent.stop()
    rtt = agent.rtts().get(("near9", subnet, "tcp_handshake"))
    ok, text = judged(rtt, "tcp_handshake", clock.connect_ms)
    followed = rtt is not None and rtt.number > 1
    text = f"{text}; exit code {code}; {clock.error}".removesuffix("; ")
    results.tell("interface goes and comes again", ok and followed and code == 0 and not clock.error, text)
