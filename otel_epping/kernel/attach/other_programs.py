# SPDX-License-Identifier: Apache-2.0
"""What else an interface does with its packets: programs and filters on its hooks, in the order in which packets meet
them, and kinds of interfaces whose packets do not pass their hooks.

What comes in passes XDP, TCX ingress and clsact ingress; what goes out passes TCX egress and clsact egress
(__netif_receive_skb_core() and __dev_queue_xmit() of net/core/dev.c), then, on a netkit interface, its program.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from otel_epping.kernel import libbpf
from otel_epping.kernel.attach import clsact, tcx
from otel_epping.kernel.netlink import links

_NETKIT = {libbpf.BPF_NETKIT_PRIMARY: "primary", libbpf.BPF_NETKIT_PEER: "peer"}

# Kind of an interface (IFLA_INFO_KIND) -> why its counters may move though no packet passes its hooks, and the cure.
_KINDS = {
    "vrf": "the kernel gives packets of a VRF device to no hook of the device: watch the interfaces in the VRF",
    "ipvlan": "an ipvlan device in mode l3s receives behind its hooks: watch the device under it",
    "ipvtap": "an ipvtap device in mode l3s receives behind its hooks: watch the device under it",
    "bond": "packets that the bond itself sends and receives (LACP, ARP monitor) pass its ports only: watch the ports",
    "team": "packets of the team's ports may not pass the team: watch the ports",
    "openvswitch": "Open vSwitch forwards packets of its ports without the bridge's device: watch the ports",
}
_BYPASSES = (
    "packets bypass the hooks of tc, by flows offloaded to the card, AF_XDP, or PACKET_QDISC_BYPASS: switch the "
    "offload off (ethtool -K {name} hw-tc-offload off; nft flowtables without flags offload), or watch another "
    "interface of the path"
)


@dataclass(frozen=True)
class Neighbour:
    """A program or filter on a hook.

    hook      where: xdp, tcx ingress, clsact egress, netkit primary...
    text      the program or filter in words
    is_ours   whether the program is otel-epping's
    is_first  whether the program runs before otel-epping's, where that is or would be attached
    """

    hook: str
    text: str
    is_ours: bool
    is_first: bool


def likely_cause(name: str, device: links.Device) -> str:
    """Why the kernel counts packets on an interface that its hooks do not show, and the cure."""
    if device.xdp:
        ids = ", ".join(map(str, device.xdp))
        return (
            f"the XDP program on the interface (id {ids}) drops, redirects or sends back packets before tc sees them: "
            f"otel-epping cannot see these packets; bpftool net show dev {name}"
        )
    return _KINDS.get(device.kind, _BYPASSES.format(name=name))


def is_suspect(device: links.Device) -> bool:
    """Whether it is known why packets of an interface would not pass its hooks."""
    return bool(device.xdp) or device.kind in ("vrf", "ipvlan", "ipvtap", "openvswitch")


def warning_of(device: links.Device) -> str:
    """What is known beforehand of an interface whose packets may not pass its hooks; '' for others."""
    return _KINDS[device.kind] if device.kind in ("vrf", "openvswitch") else ""


def _programs(ifindex: int, direction: str, hook: str) -> Iterator[Neighbour]:
    """TCX programs: the agent takes the first place when it starts, but others may have come later."""
    programs = tcx.attached(ifindex, direction) if tcx.is_known() else []
    names = [libbpf.program_name(each) for each in programs]
    ours = [place for place, name in enumerate(names) if name.startswith(libbpf.PROGRAM_PREFIX)]
    before = len(programs) if hook == "clsact" else min(ours, default=0)
    for place, (program, name) in enumerate(zip(programs, names, strict=True)):
        yield Neighbour(f"tcx {direction}", tcx.in_words(program, name), place in ours, place < before)


def _filters(ifindex: int, direction: str, hook: str) -> Iterator[Neighbour]:
    """Filters of the clsact qdisc, all of which run after TCX programs."""
    filters = clsact.in_order(ifindex, direction)
    ours = [place for place, each in enumerate(filters) if each.name.startswith(libbpf.PROGRAM_PREFIX)]
    priority, _ = clsact.place(ifindex, direction)
    before = min(ours, default=sum(each.priority < priority for each in filters)) if hook == "clsact" else 0
    for place, each in enumerate(filters):
        text = f"filter {clsact.in_words(each)}"
        yield Neighbour(f"clsact {direction}", text, place in ours, place < before)


def _netkit(ifindex: int) -> Iterator[Neighbour]:
    for attach_type, side in _NETKIT.items():
        for program in libbpf.attached_programs(ifindex, attach_type):
            text = f"program {libbpf.program_name(program) or 'of unknown name'} (id {program})"
            yield Neighbour(f"netkit {side}", text, False, False)


def on_hooks(ifindex: int, hook: str) -> list[Neighbour]:
    """All programs and filters on an interface, for each direction in the order in which packets meet them; `hook` is
    otel-epping's: tcx or clsact. Raises OSError, without CAP_NET_ADMIN too.
    """
    device = links.device(ifindex)
    found = [Neighbour("xdp", f"XDP program (id {program})", False, True) for program in device.xdp]
    for direction in ("ingress", "egress"):
        found += [*_programs(ifindex, direction, hook), *_filters(ifindex, direction, hook)]
    if device.kind == "netkit":
        found += _netkit(ifindex)
    return found
