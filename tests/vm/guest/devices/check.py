# SPDX-License-Identifier: Apache-2.0
"""Runs the agent on every kind of interface at once and judges each by its shortest RTT."""

from vm.guest import traffic
from vm.guest.agent import Agent, Rtt, judged
from vm.guest.devices import encrypted, ethernet, processes, tunnels
from vm.guest.devices.site import Kind, Site, Watched
from vm.guest.network import Pair
from vm.guest.results import Results

KINDS: tuple[Kind, ...] = (
    ethernet.veth,
    ethernet.vlan,
    ethernet.vlan_in_packet,
    ethernet.qinq,
    ethernet.bond,
    ethernet.vlan_on_bond,
    ethernet.bridge,
    ethernet.macvlan,
    ethernet.ipvlan_l2,
    ethernet.ipvlan_l3,
    ethernet.vrf,
    ethernet.netkit_l2,
    ethernet.netkit_l3,
    tunnels.ipip,
    tunnels.gre,
    tunnels.gre_key,
    tunnels.gre_multipoint,
    tunnels.gretap,
    tunnels.vxlan,
    tunnels.geneve,
    tunnels.sit,
    tunnels.ip6tnl,
    tunnels.ip6gre,
    encrypted.macsec,
    encrypted.wireguard,
    encrypted.vti,
    encrypted.xfrm,
    processes.tun,
    processes.tap,
    processes.pppoe,
)
_METHODS = ("tcp_timestamp", "tcp_handshake")
_BULK = 200_000
_FEATURES = ("tso", "gso", "gro")


def check(results: Results) -> None:
    """Three passes: with large segments, with them and `--tunnels`, and without either."""
    pair = Pair()
    watched: list[Watched] = []
    for number, kind in enumerate(KINDS, 1):
        name = kind.__name__.replace("_", " ")
        with results.attempt(f"{name}: made"):
            watched += kind(Site(pair, number))
    traffic.Server(pair.far)
    devices = sorted({one.device for one in watched} | {one.parent for one in watched if one.parent})
    for name, arguments, large in (
        ("large segments", (), True),
        ("--tunnels", ("--tunnels",), True),
        ("no large segments", (), False),
    ):
        if not large:
            _without_large_segments(pair)
        with results.attempt(name):
            _pass(results, name, pair, watched, devices, arguments)


def _pass(
    results: Results, name: str, pair: Pair, watched: list[Watched], devices: list[str], arguments: tuple[str, ...]
) -> None:
    agent = Agent(f"devices {name}", pair.near, devices, *arguments)
    targets = sorted({(one.address, one.via) for one in watched})
    clocks = traffic.talk(pair.near, targets, connections=2, turns=8, bulk=_BULK)
    code = agent.stop()
    rtts = agent.rtts()
    for one in watched:
        clock = clocks[one.address]
        where = f"{name}: {one.kind}"
        if clock.error:
            results.tell(where, False, f"the application does not get through: {clock.error}", kind=one.kind)
            continue
        ok, text = _judge(rtts, one.device, one.subnet, clock)
        results.tell(where, ok, f"{one.device}: {text}; packets {agent.kinds(one.device)}", kind=one.kind)
        if one.parent:
            inner = one.inner_tunnels if arguments else one.inner
            ok, text = _judge(rtts, one.parent, one.subnet, clock)
            if not inner:
                ok = not any((one.parent, one.subnet, method) in rtts for method in _METHODS)
                text = f"no inner RTT is expected: {text}"
            results.tell(f"{where}: parent", ok, f"{text}; packets {agent.kinds(one.parent)}", kind=one.kind)
    results.tell(name, code == 0, f"{len(devices)} interfaces, start {agent.start_s:.1f} s, exit code {code}")


def _judge(rtts: dict[tuple[str, str, str], Rtt], device: str, subnet: str, clock: traffic.Clock) -> tuple[bool, str]:
    exchange, exchange_text = judged(rtts.get((device, subnet, "tcp_timestamp")), clock.exchange_ms)
    handshake, handshake_text = judged(rtts.get((device, subnet, "tcp_handshake")), clock.connect_ms)
    return exchange and handshake, f"timestamps {exchange_text}, handshakes {handshake_text}"


def _without_large_segments(pair: Pair) -> None:
    """Take them from every interface that has them: an interface may have some of these features only."""
    for namespace in pair.sides:
        names = [line.split(": ")[1].split("@")[0] for line in namespace.run("ip", "-o", "link").splitlines()]
        for device in names:
            for feature in _FEATURES:
                namespace.run("sh", "-c", f"ethtool -K {device} {feature} off 2>/dev/null || true")
