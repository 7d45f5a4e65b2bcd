# SPDX-License-Identifier: Apache-2.0
"""Runs one agent on every kind of interface, and judges each interface by its shortest RTT."""

from tests.vm.guest import traffic
from tests.vm.guest.agent import Agent, Rtt, judged
from tests.vm.guest.devices import encrypted, ethernet, processes, tunnels
from tests.vm.guest.devices.site import Kind, Site, Watched
from tests.vm.guest.network import Pair
from tests.vm.guest.results import Results

KINDS: dict[str, Kind] = {
    "veth": ethernet.veth,
    "VLAN": ethernet.vlan,
    "VLAN without offload": ethernet.vlan_in_packet,
    "QinQ": ethernet.qinq,
    "bond": ethernet.bond,
    "VLAN on a bond": ethernet.vlan_on_bond,
    "bridge": ethernet.bridge,
    "macvlan": ethernet.macvlan,
    "ipvlan l2": ethernet.ipvlan_l2,
    "ipvlan l3": ethernet.ipvlan_l3,
    "VRF": ethernet.vrf,
    "netkit l2": ethernet.netkit_l2,
    "netkit l3": ethernet.netkit_l3,
    "ipip": tunnels.ipip,
    "GRE": tunnels.gre,
    "GRE with key, checksum, sequence": tunnels.gre_key,
    "GRE without remote": tunnels.gre_multipoint,
    "gretap": tunnels.gretap,
    "VXLAN": tunnels.vxlan,
    "Geneve": tunnels.geneve,
    "sit": tunnels.sit,
    "ip6tnl": tunnels.ip6tnl,
    "ip6gre": tunnels.ip6gre,
    "MACsec": encrypted.macsec,
    "WireGuard": encrypted.wireguard,
    "VTI (IPsec)": encrypted.vti,
    "xfrm (IPsec)": encrypted.xfrm,
    "tun": processes.tun,
    "tap": processes.tap,
    "PPPoE": processes.pppoe,
}
_METHODS = ("tcp_timestamp", "tcp_handshake")
_BULK = 200_000
_OFF = "tso off gso off gro off"


def check(results: Results) -> None:
    """Run three passes: the first with large segments, the second with large segments and `--tunnels`, the third
    without large segments and without `--tunnels`."""
    pair = Pair()
    watched: list[Watched] = []
    for number, (kind, make) in enumerate(KINDS.items(), 1):
        with results.attempt(f"{kind}: made", kind=kind):
            watched += make(Site(pair, number, kind))
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
        kinds = agent.kinds(one.device)
        limit = {"limit": one.limit} if one.limit else {}
        ok = not kinds if one.limit else ok
        results.tell(where, ok, f"{one.device}: {text}; packets {kinds}", kind=one.kind, **limit)
        if one.parent:
            inner = one.inner_tunnels if arguments else one.inner
            ok, text = _judge(rtts, one.parent, one.subnet, clock)
            if not inner:
                ok = not any((one.parent, one.subnet, method) in rtts for method in _METHODS)
                text = f"no inner RTT is expected: {text}"
            results.tell(f"{where}: parent", ok, f"{text}; packets {agent.kinds(one.parent)}", kind=one.kind)
    results.tell(name, code == 0, f"{len(devices)} interfaces, start {agent.start_s:.1f} s, exit code {code}")


def _judge(rtts: dict[tuple[str, str, str], Rtt], device: str, subnet: str, clock: traffic.Clock) -> tuple[bool, str]:
    times = dict(zip(_METHODS, (clock.exchange_ms, clock.connect_ms), strict=True))
    found = {method: judged(rtts.get((device, subnet, method)), method, ms) for method, ms in times.items()}
    return all(ok for ok, _ in found.values()), ", ".join(f"{method}: {text}" for method, (_, text) in found.items())


def _without_large_segments(pair: Pair) -> None:
    """Switch large segments off on every interface. If an interface lacks one of the features, ethtool fails, but still
    switches the other features off."""
    for namespace in pair.sides:
        names = [line.split(": ")[1].split("@")[0] for line in namespace.run("ip", "-o", "link").splitlines()]
        script = f"for device in {' '.join(names)}; do ethtool -K $device {_OFF}; done 2>/dev/null || true"
        namespace.run("sh", "-c", script)
