# SPDX-License-Identifier: Apache-2.0
"""Lists the programs and filters on the hooks of an interface. Explains why packets may bypass the hooks.

An incoming packet passes XDP, TCX ingress and clsact ingress, in this order (__netif_receive_skb_core() of
net/core/dev.c). An outgoing packet passes TCX egress and then clsact egress (__dev_queue_xmit()). On a netkit
interface, an outgoing packet then passes the program of the netkit interface.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from otel_epping.kernel import libbpf
from otel_epping.kernel.attach import clsact, tcx
from otel_epping.kernel.netlink import links

_NETKIT = {libbpf.BPF_NETKIT_PRIMARY: "primary", libbpf.BPF_NETKIT_PEER: "peer"}

# For each kind of interface (IFLA_INFO_KIND), the reason why the kernel may count packets that do not pass the hooks,
# and the cure.
_CAUSE_OF_KIND = {
    "vrf": "packets of a VRF device do not pass the hooks of the device: watch the interfaces in the VRF",
    "ipvlan": "packets to an ipvlan device in mode l3s do not pass its hooks: watch the parent device",
    "ipvtap": "packets to an ipvtap device in mode l3s do not pass its hooks: watch the parent device",
    "bond": "packets that the bond itself sends and receives (LACP, ARP monitor) pass only its ports: watch the ports",
    "team": "some packets of the team's ports do not pass the team device: watch the ports",
    "openvswitch": "Open vSwitch forwards packets between its ports, not through the bridge's device: watch the ports",
}
_BYPASSES = (
    "packets bypass the tc hooks, by AF_XDP, PACKET_QDISC_BYPASS, or flow offload to the network card: switch the "
    "offload off (ethtool -K {name} hw-tc-offload off; nft flowtables without flags offload), or watch another "
    "interface on the path"
)


@dataclass(frozen=True)
class HookEntry:
    """A program or filter on a hook.

    hook       the hook: xdp, tcx ingress, clsact egress, netkit primary, ...
    text       a description of the program or filter
    is_ours    true if the program or filter belongs to otel-epping
    is_before  true if the program or filter runs before otel-epping's program, or, if otel-epping's program is not
               attached, would run before otel-epping's program
    """

    hook: str
    text: str
    is_ours: bool
    is_before: bool


def likely_cause(name: str, device: links.Device) -> str:
    """Returns the likely reason why the kernel counts packets that do not pass the hooks, and the cure."""
    if device.xdp:
        ids = ", ".join(map(str, device.xdp))
        return (
            f"the XDP program on the interface (id {ids}) drops, redirects or sends back packets before the tc hooks: "
            f"otel-epping cannot see these packets (see bpftool net show dev {name})"
        )
    return _CAUSE_OF_KIND.get(device.kind, _BYPASSES.format(name=name))


def is_suspect(device: links.Device) -> bool:
    """Returns true if an interface has a property that may explain why packets do not pass its hooks."""
    return bool(device.xdp) or device.kind in ("vrf", "ipvlan", "ipvtap", "openvswitch")


def warning_of(device: links.Device) -> str:
    """Returns a warning for a kind of interface whose packets do not pass the hooks; '' for other kinds."""
    return _CAUSE_OF_KIND[device.kind] if device.kind in ("vrf", "openvswitch") else ""


def _programs(ifindex: int, direction: str, hook: str) -> Iterator[HookEntry]:
    """Yields the TCX programs. `hook` is the hook that otel-epping uses: "tcx" or "clsact"."""
    programs = tcx.attached(ifindex, direction) if tcx.is_known() else []
    names = [libbpf.program_name(each) for each in programs]
    ours = [index for index, name in enumerate(names) if name.startswith(libbpf.PROGRAM_PREFIX)]
    before = len(programs) if hook == "clsact" else min(ours, default=0)
    for index, (program, name) in enumerate(zip(programs, names, strict=True)):
        yield HookEntry(f"tcx {direction}", tcx.describe(program, name), index in ours, index < before)


def _filters(ifindex: int, direction: str, hook: str) -> Iterator[HookEntry]:
    """Yields the filters of the clsact qdisc, which run after all TCX programs."""
    filters = clsact.in_order(ifindex, direction)
    ours = [index for index, each in enumerate(filters) if each.name.startswith(libbpf.PROGRAM_PREFIX)]
    priority, _ = clsact.choose_priority(ifindex, direction)
    before = min(ours, default=sum(each.priority < priority for each in filters)) if hook == "clsact" else 0
    for index, each in enumerate(filters):
        text = f"filter {clsact.describe(each)}"
        yield HookEntry(f"clsact {direction}", text, index in ours, index < before)


def _netkit(ifindex: int) -> Iterator[HookEntry]:
    for attach_type, side in _NETKIT.items():
        for program in libbpf.attached_programs(ifindex, attach_type):
            text = f"program {libbpf.program_name(program) or 'of unknown name'} (id {program})"
            yield HookEntry(f"netkit {side}", text, False, False)


def on_hooks(ifindex: int, hook: str) -> list[HookEntry]:
    """Returns all programs and filters on an interface, in the order of execution for each direction.

    `hook` is the hook that otel-epping uses: "tcx" or "clsact". Raises OSError, also if CAP_NET_ADMIN is missing.
    """
    device = links.device(ifindex)
    found = [HookEntry("xdp", f"XDP program (id {program})", False, True) for program in device.xdp]
    for direction in ("ingress", "egress"):
        found += [*_programs(ifindex, direction, hook), *_filters(ifindex, direction, hook)]
    if device.kind == "netkit":
        found += _netkit(ifindex)
    return found
