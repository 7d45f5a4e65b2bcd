# SPDX-License-Identifier: Apache-2.0
"""Runs the agent on a veth interface. Tests hooks, privileges, the clean-up, and the RTTs of five methods."""

import os
import time

from otel_epping.kernel.attach import tcx
from otel_epping.lab.namespaces import Namespace
from tests.support.unprivileged import CAPABLE_NOBODY, NET_ADMIN, assert_holds_nothing
from tests.vm.guest import traffic
from tests.vm.guest.agent import Agent, judged
from tests.vm.guest.network import Pair
from tests.vm.guest.results import Results

_V4, _V6 = "10.9.0.2", "fd09:1::2"
_SUBNET_V4, _SUBNET_V6 = "10.9.0.0/24", "fd09:1::/48"


def check(results: Results) -> None:
    """Run the agent with the hooks `auto` and `clsact`, as root and as the user `nobody`. End the agent with SIGTERM
    and with SIGKILL."""
    pair = Pair()
    pair.veth("near0", "far0", "10.9.0")
    pair.near.ip("address add fd09:1::1/48 dev near0")
    pair.far.ip(f"address add {_V6}/48 dev far0")
    traffic.Server(pair.far)
    for name, hook, prefix in (
        ("auto", "auto", ()),
        ("clsact", "clsact", ()),
        ("nobody with three capabilities", "auto", tuple(CAPABLE_NOBODY)),
    ):
        with results.attempt(name):
            _run(results, pair, name, hook, prefix)
    for hook in ("auto", "clsact"):
        with results.attempt(f"kill -9, {hook}"):
            _kill(results, pair, hook)


def _run(results: Results, pair: Pair, name: str, hook: str, prefix: tuple[str, ...]) -> None:
    agent = Agent(f"hooks {name}", pair.near, ["near0"], "--hook", hook, prefix=prefix)
    pid = agent.process.pid
    kept = NET_ADMIN if "CAP_NET_ADMIN: kept" in agent.log else 0
    with results.attempt(f"{name}: privileges at run time"):
        assert_holds_nothing(pid, kept)
        expected = NET_ADMIN if hook == "clsact" or not tcx.is_known() else 0
        text = "CAP_NET_ADMIN" if kept else "no capability"
        results.tell(f"{name}: privileges at run time", kept == expected, f"{text} is held")
    applications = _talk(pair)
    code = agent.stop()
    left = attached(pair.near, "near0")
    rtts = agent.rtts()
    for (subnet, method), application_ms in applications.items():
        ok, text = judged(rtts.get(("near0", subnet, method)), method, application_ms)
        results.tell(f"{name}: {method}, {subnet}", ok, text)
    text = f"start {agent.start_s:.1f} s, exit code {code}, left: {left or 'nothing'}"
    results.tell(name, code == 0 and not left, text, start_s=round(agent.start_s, 1))


def _talk(pair: Pair) -> dict[tuple[str, str], float]:
    """Send packets for each method. Return the shortest times in ms that the applications measured: (subnet, method) ->
    time."""
    targets = [(_V4, ""), (_V6, "")]
    times = {}
    for exchange, timestamps in (("tcp_timestamp", 1), ("tcp_sequence", 0)):
        pair.near.sysctl("net.ipv4.tcp_timestamps", timestamps)
        clocks = traffic.talk(pair.near, targets)
        for address, subnet in ((_V4, _SUBNET_V4), (_V6, _SUBNET_V6)):
            if clocks[address].error:
                raise RuntimeError(f"{address}: {clocks[address].error}")
            times[subnet, exchange] = clocks[address].exchange_ms
            connect_ms = min(clocks[address].connect_ms, times.get((subnet, "tcp_handshake"), float("inf")))
            times[subnet, "tcp_handshake"] = connect_ms
    pair.near.sysctl("net.ipv4.tcp_timestamps", 1)
    times[_SUBNET_V4, "dns"] = traffic.resolve(pair.near, _V4)
    times[_SUBNET_V4, "icmp_echo"] = traffic.ping(pair.near, _V4)
    return times


def _kill(results: Results, pair: Pair, hook: str) -> None:
    agent = Agent(f"hooks kill {hook}", pair.near, ["near0"], "--hook", hook)
    group = os.getpgid(agent.process.pid)
    agent.process.kill()
    agent.process.wait()
    time.sleep(2)
    try:
        os.killpg(group, 0)
        alive = True
    except ProcessLookupError:
        alive = False
    behind = attached(pair.near, "near0")
    again = Agent(f"hooks after kill {hook}", pair.near, ["near0"], "--hook", hook)
    meanwhile = attached(pair.near, "near0")
    code = again.stop()
    left = attached(pair.near, "near0")
    links = hook == "auto" and tcx.is_known()
    ok = not alive and not left and code == 0 and len(meanwhile) <= 2 and (not behind if links else bool(behind))
    results.tell(
        f"kill -9, {hook}",
        ok,
        f"left by the killed agent: {behind or 'nothing'}; while the next agent runs: {meanwhile}; "
        f"after it: {left or 'nothing'}" + ("; processes are left" if alive else ""),
    )


def attached(namespace: Namespace, device: str) -> list[str]:
    """Return the agent's programs on a device, as bpftool shows them."""
    shown = namespace.run("bpftool", "net", "show", "dev", device)
    return [line.split(" id ")[0] for line in shown.splitlines() if "epping" in line]
