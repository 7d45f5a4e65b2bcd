# SPDX-License-Identifier: Apache-2.0
"""Tests the agent on interfaces that have qdiscs and filters of other programs, and on an interface that is removed and
added again."""

import re
import time
from collections.abc import Callable

from otel_epping.kernel.attach import tcx
from tests.vm.guest import traffic
from tests.vm.guest.agent import Agent, NotStartedError, judged
from tests.vm.guest.network import Pair
from tests.vm.guest.results import Results

_HOOKS = ("auto", "clsact")
# Values that change by themselves: numbers, and the name of the hook at which the kernel last added or removed a
# filter.
_CHANGING = re.compile(r"\b(id|tag|index|ref|bind) \S+|(?<=^filter )(parent ffff:|ingress|egress) ?|\s+$")
_FIRST = "other program's accepting filter at pref 1"
_INGRESS = "other program's ingress qdisc"


def check(results: Results) -> None:
    """Run each of _CASES on an interface of its own. The qdiscs and filters of other programs must not change."""
    pair = Pair()
    traffic.Server(pair.far)
    for number, (name, prepare) in enumerate(_CASES.items(), 1):
        near = f"near{number}"
        pair.veth(near, f"far{number}", f"10.{number}.0")
        with results.attempt(name):
            for command in prepare(number):
                pair.near.run("tc", *command.split())
            for hook in _HOOKS:
                _with_agent(results, name, pair, number, hook)
    with results.attempt("interface is removed and added again"):
        _again(results, pair)


def _netem_and_filters(number: int) -> list[str]:
    """A delay on the interface, and filters that let the next filters run."""
    near = f"near{number}"
    return [
        f"qdisc add dev {near} root netem delay 10ms limit 10000",
        f"qdisc add dev {near} clsact",
        f"filter add dev {near} ingress pref 100 protocol ip u32 match ip dst 10.{number}.0.1/32"
        " action skbedit mark 7 continue",
        f"filter add dev {near} egress pref 100 protocol ip u32 match ip dst 192.0.2.4/32 action drop",
    ]


def _ingress_qdisc(number: int) -> list[str]:
    """The ingress qdisc instead of clsact. An interface can have either the ingress qdisc or clsact, and the ingress
    qdisc has no filters for transmitted packets."""
    near = f"near{number}"
    return [
        f"qdisc add dev {near} ingress",
        f"filter add dev {near} parent ffff: protocol all pref 5 matchall action continue",
    ]


def _accepting_filter(number: int) -> list[str]:
    """A filter that accepts every packet, at a priority that permits other filters before it."""
    return _accepting(number, 100)


def _first_accepting_filter(number: int) -> list[str]:
    """A filter that accepts every packet, at the first priority. Later filters get no packets."""
    return _accepting(number, 1)


def _accepting(number: int, priority: int) -> list[str]:
    near = f"near{number}"
    return [
        f"qdisc add dev {near} clsact",
        f"filter add dev {near} ingress pref {priority} protocol all matchall action ok",
    ]


_CASES: dict[str, Callable[[int], list[str]]] = {
    "other program's netem and filters": _netem_and_filters,
    "other program's accepting filter": _accepting_filter,
    _FIRST: _first_accepting_filter,
    _INGRESS: _ingress_qdisc,
}


def _with_agent(results: Results, case: str, pair: Pair, number: int, hook: str) -> None:
    near, name = f"near{number}", f"{case}, {hook}"
    filters = hook == "clsact" or not tcx.is_known()
    before = _state(pair, near)
    if case == _INGRESS and filters:
        _refused(results, name, pair, near, hook)
        return
    agent = Agent(f"neighbours {name}", pair.near, [near], "--hook", hook)
    address = f"10.{number}.0.2"
    clock = traffic.talk(pair.near, [(address, "")], bulk=300_000)[address]
    code = agent.stop()
    after = _state(pair, near)
    rtt = agent.rtts().get((near, f"10.{number}.0.0/24", "tcp_timestamp"))
    ok, text = judged(rtt, "tcp_timestamp", clock.exchange_ms)
    limit = {}
    if case == _FIRST and filters:
        ok = rtt is None and "other programs run first" in agent.log
        limit = {"limit": "filters after it see no packets; the agent logs this"}
    if not ok:
        text += f"; log: {agent.log[-600:]}"
    same = "unchanged" if before == after else f"CHANGED from {before} to {after}"
    text = f"{text}; others' qdiscs and filters {same}; exit code {code}; {clock.error}".removesuffix("; ")
    results.tell(name, ok and before == after and code == 0 and not clock.error, text, **limit)


def _refused(results: Results, name: str, pair: Pair, near: str, hook: str) -> None:
    """Check that the agent prints one line with the cure and ends, and that the qdiscs and filters are unchanged."""
    before = _state(pair, near)
    try:
        agent = Agent(f"neighbours {name}", pair.near, [near], "--hook", hook)
    except NotStartedError as error:
        same = before == _state(pair, near)
        ok = same and "has an ingress qdisc" in str(error) and "clsact" in str(error)
        text = f"{error}; others' qdiscs and filters {'unchanged' if same else 'CHANGED'}"
        results.tell(name, ok, text, limit="the agent refuses the interface and names the cure")
    else:
        agent.stop()
        results.tell(name, False, "the agent watches, but an ingress qdisc has no filters for egress")


def _state(pair: Pair, device: str) -> list[str]:
    """Return the qdiscs and filters of a device, without the values that change by themselves."""
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
    results.tell("interface is removed and added again", ok and followed and code == 0 and not clock.error, text)
