# SPDX-License-Identifier: Apache-2.0
"""Tests that the monitor attaches to new interfaces and detaches from removed interfaces.

When an interface appears again, its series continue.
"""

import fcntl
import logging
import os
import select
import struct
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf
from otel_epping.kernel.attach.attachments import INTERFACES, UNKNOWN_INTERFACE
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor, present
from otel_epping.kernel.attach.interfaces import Interface, Role, find
from otel_epping.kernel.attach.selection import Selection
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.netlink import links
from otel_epping.kernel.read.reader import Reader
from otel_epping.kernel.reading import Reading
from otel_epping.lab.namespaces import Namespace

HOOKS = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
SMALL = EppingConfig(
    max_subnets=4096, max_flows=64
)  # The kernel sends some IPv6 packets on each new interface, and these packets use slots of subnets.
NUMBERS = count()


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host whose interfaces are veths. The thread of the test enters the network namespace of the host."""
    with Namespace("follow") as namespace, namespace.entered():
        yield namespace


@pytest.fixture(scope="module")
def collector() -> Iterator[EppingCollector]:
    with EppingCollector(SMALL) as collector:
        yield collector


@pytest.fixture(scope="module")
def reader(collector: EppingCollector) -> Reader:
    return collector.reader()


@pytest.fixture
def name() -> str:
    """A new interface name for each test, because the program counts packets by interface name."""
    return f"v{next(NUMBERS)}"


@pytest.fixture
def start_monitor(host: Namespace, collector: EppingCollector) -> Iterator[Callable[..., InterfaceMonitor]]:
    """Return a function that starts a monitor. All monitors are closed at the end of the test."""
    monitors: list[InterfaceMonitor] = []

    def start_monitor(*wan: str, lan: tuple[str, ...] = ()) -> InterfaceMonitor:
        monitors.append(InterfaceMonitor(collector.attachments, Selection(wan, lan)))
        monitors[-1].begin()
        return monitors[-1]

    yield start_monitor
    for monitor in monitors:
        monitor.close()


def veth(host: Namespace, name: str, *more: str, options: str = "") -> None:
    """Add a veth called `name` and set it up. No selection matches the name of the veth's peer."""
    peer = f"p{next(NUMBERS)}"
    host.ip(
        f"link add {name} {options} type veth peer name {peer}", f"link set {peer} up", f"link set {name} up", *more
    )


def settle(monitor: InterfaceMonitor) -> list[str]:
    """Handle messages until no further message arrives, and return the watched interfaces."""
    while select.select([monitor], [], [], 0.05)[0]:
        monitor.follow()
    return monitor._attachments.watched


def on_hooks(name: str) -> list[int]:
    """Return how many programs are on each hook of an interface."""
    return [libbpf.attached_count(ifindex(name), hook) for hook in HOOKS]


def ifindex(name: str) -> int:
    return {link.name: link.ifindex for link in links.links()}[name]


def send(host: Namespace, name: str, packets: int = 5) -> None:
    """Send packets out of an interface."""
    script = (
        "import socket,sys; s=socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 6, 1)\n"
        "s.setsockopt(1, 25, sys.argv[1].encode())\n"
        "[s.sendto(b'to nobody', ('10.8.0.255', 9)) for _ in range(int(sys.argv[2]))]"
    )
    host.run("python3", "-c", script, name, str(packets))


def sent(reader: Reader, name: str) -> int:
    """Return the number of counted UDP packets that were sent out of interfaces with this name."""
    reading = reader.read()
    record = reading.interfaces[list(reading.names.values()).index(name)]
    return int(record["transmitted"]["packets"][1])


def identifier(reading: Reading, name: str) -> int:
    """Return the number that identifies an interface in the keys of subnets."""
    (found,) = (each for each, known in reading.names.items() if known == name)
    return found


ADDRESS = "address add 10.8.0.1/24 dev {}"


def test_an_interface_that_appears_and_disappears(
    host: Namespace,
    start_monitor: Callable[..., InterfaceMonitor],
    collector: EppingCollector,
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    before = dict(collector.attachments.counts)
    monitor = start_monitor(f"{name}*")
    assert settle(monitor) == []
    veth(host, name)
    assert settle(monitor) == [name]
    assert on_hooks(name) == [1, 1]
    assert collector.attachments.state()[name]
    host.ip(f"link delete {name}")
    assert settle(monitor) == []
    assert not collector.attachments.state()[name]
    assert [record.getMessage() for record in caplog.records] == [
        f"no interface matches {name}* yet: the agent attaches when one appears",
        f"attached to {name}",
        f"detached from {name}: it is gone",
    ]
    after = collector.attachments.counts
    assert [after[event] - before[event] for event in ("attached", "detached", "refused")] == [1, 1, 0]


def test_an_interface_that_is_created_again_continues_its_series(
    host: Namespace,
    start_monitor: Callable[..., InterfaceMonitor],
    collector: EppingCollector,
    reader: Reader,
    name: str,
) -> None:
    veth(host, name, ADDRESS.format(name))
    monitor = start_monitor(name)
    indexes = set()
    for turn in range(1, 4):
        indexes.add(ifindex(name))
        send(host, name, 5)
        host.ip(f"link delete {name}")
        assert settle(monitor) == []
        assert sent(reader, name) == 5 * turn
        veth(host, name, ADDRESS.format(name))
        assert settle(monitor) == [name]
    assert len(indexes) == 3
    reading = reader.read()
    assert list(reading.names.values()).count(name) == 1
    keys = reading.slots[reading.slots["state"] != 0]["key"]
    ours = keys[(keys["interface"] == identifier(reading, name)) & (keys["family"] == 4)]
    # the subnet 10.8.0.0/24, as source and as destination
    assert len(ours) == len({key.tobytes() for key in ours}) == 2


def test_deleted_and_created_with_the_same_index(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], reader: Reader, name: str
) -> None:
    """The interface is deleted and created again before the monitor checks. Only a netlink message shows that the
    interface was replaced."""
    veth(host, name, ADDRESS.format(name), options="index 777")
    monitor = start_monitor(name)
    send(host, name, 3)
    host.ip(f"link delete {name}")
    veth(host, name, ADDRESS.format(name), options="index 777")
    assert settle(monitor) == [name]
    assert on_hooks(name) == [1, 1]
    send(host, name, 4)
    assert sent(reader, name) == 7


def test_renamed(host: Namespace, start_monitor: Callable[..., InterfaceMonitor], reader: Reader, name: str) -> None:
    veth(host, name, ADDRESS.format(name))
    monitor = start_monitor(f"/^{name}($|x)/")
    send(host, name, 3)
    host.ip(f"link set {name} name {name}x")
    assert settle(monitor) == [f"{name}x"]
    send(host, f"{name}x", 4)
    host.ip(f"link set {name}x name z{name}")
    assert settle(monitor) == []
    host.ip(f"link set z{name} name {name}")
    assert settle(monitor) == [name]
    send(host, name, 5)
    assert [sent(reader, each) for each in (name, f"{name}x")] == [8, 4]


def test_names_that_are_exchanged(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], reader: Reader, name: str
) -> None:
    veth(host, f"{name}a", ADDRESS.format(f"{name}a"))
    veth(host, f"{name}b", "address add 10.8.0.2/24 dev " + f"{name}b")
    monitor = start_monitor(f"{name}?")
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        host.ip(f"link set {name}{old} name {name}{new}")
    assert sorted(settle(monitor)) == [f"{name}a", f"{name}b"]
    assert [on_hooks(f"{name}{each}") for each in "ab"] == [[1, 1], [1, 1]]
    send(host, f"{name}a", 2)
    send(host, f"{name}b", 3)
    assert [sent(reader, f"{name}{each}") for each in "ab"] == [2, 3]


def test_moved_to_another_namespace(host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str) -> None:
    veth(host, name)
    monitor = start_monitor(name)
    with Namespace("elsewhere") as elsewhere:
        host.ip(f"link set {name} netns {elsewhere.path}")
        assert settle(monitor) == []
        with elsewhere.entered():
            assert on_hooks(name) == [0, 0]


def test_down_and_up_changes_nothing(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str
) -> None:
    veth(host, name)
    monitor = start_monitor(name)
    before = dict(monitor._attachments.counts)
    host.ip(f"link set {name} down")
    assert settle(monitor) == [name]
    host.ip(f"link set {name} up")
    assert settle(monitor) == [name]
    assert monitor._attachments.counts == before


LONG = "-" + 126 * "n"  # with one more letter, LONG has ALTIFNAMSIZ - 1 bytes


@pytest.mark.parametrize("selects", ["{}", "{}*", "/{}/"])
def test_an_alternative_name(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str, selects: str
) -> None:
    long = f"{name}{LONG}"[:127]
    veth(host, name, f"link property add dev {name} altname {long}")
    monitor = start_monitor(selects.format(long), name)
    assert settle(monitor) == [name]
    assert on_hooks(name) == [1, 1]
    monitor.select(Selection([selects.format(long)]))
    host.ip(f"link set {name} name {name}x")
    assert settle(monitor) == [f"{name}x"]


def test_an_alternative_name_is_added_removed_and_used_by_another(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str
) -> None:
    veth(host, f"{name}a")
    alternative = f"{name}-an-alternative-name"
    monitor = start_monitor(alternative)
    assert settle(monitor) == []
    host.ip(f"link property add dev {name}a altname {alternative} altname {name}b")
    assert settle(monitor) == [f"{name}a"]
    host.ip(f"link property del dev {name}a altname {alternative}")
    assert settle(monitor) == []
    monitor.select(Selection([f"{name}b"]))
    assert settle(monitor) == [f"{name}a"]
    host.ip(f"link property del dev {name}a altname {name}b")
    veth(host, f"{name}b")
    assert settle(monitor) == [f"{name}b"]


def test_find_knows_alternative_names(host: Namespace, name: str) -> None:
    veth(host, name, f"link property add dev {name} altname {name}-with-a-long-name altname {name}y")
    expected = Interface(name, ifindex(name), 14)
    assert [find(each) for each in (name, f"{name}-with-a-long-name", f"{name}y")] == [expected] * 3
    for missing in (f"{name}-with-a-long", "n" * 127, "n" * 500, "", "a/b"):
        with pytest.raises(EppingError, match=f"there is no interface {missing!r}: choose one of lo, "):
            find(missing)
    host.ip(f"link set {name} down")
    with pytest.raises(EppingError, match=f"interface {name} is down: ip link set {name} up"):
        find(f"{name}-with-a-long-name")


def test_auto_selects_interfaces_with_a_default_route(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str
) -> None:
    four, six, many = (name + each for each in ("four", "six", "many"))
    for number, each in enumerate((four, six, many)):
        veth(host, each, f"address add 10.9.{number}.1/24 dev {each}")
    monitor = start_monitor("auto")
    assert settle(monitor) == []
    host.ip(f"route add default via 10.9.0.2 dev {four}")
    assert settle(monitor) == [four]
    host.ip(f"route add ::/0 dev {six} metric 7", f"route add 2001:db8::/32 dev {many}")
    assert sorted(settle(monitor)) == [four, six]
    host.ip(f"route add 10.66.0.0/16 dev {many}", f"route add default via 10.9.2.2 dev {many} table 7")
    host.ip("route add unreachable default metric 9999")
    assert sorted(settle(monitor)) == [four, six]
    host.ip(f"route add default metric 5 nexthop via 10.9.0.2 dev {four} nexthop via 10.9.2.2 dev {many}")
    assert sorted(settle(monitor)) == [four, many, six]
    host.ip("route delete default metric 5", f"route delete default via 10.9.0.2 dev {four}")
    assert settle(monitor) == [six]
    host.ip(f"link set {six} down")  # the kernel deletes the routes, but sends no messages about the routes
    assert settle(monitor) == []
    assert list(present(["auto", "lo"])) == ["lo"]


def test_messages_that_were_missed(host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str) -> None:
    veth(host, f"{name}a")
    monitor = start_monitor(f"{name}?")
    overrun = links.LinkChanges(routes=False)
    host.ip(*[f"link set {name}a {state}" for _ in range(300) for state in ("down", "up")], f"link delete {name}a")
    veth(host, f"{name}b")
    assert None in overrun.read()
    overrun.close()
    assert settle(monitor) == [f"{name}b"]


def open_descriptors() -> set[str]:
    return {file.name for file in Path("/proc/self/fd").iterdir()}


def test_many_interfaces_at_a_time(host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str) -> None:
    """20 interfaces are created and deleted, in two rounds. At the end, no descriptor of the 20 interfaces is open."""
    monitor = start_monitor(f"{name}-*")
    descriptors = open_descriptors()
    for _ in range(2):
        host.ip(*[f"link add {name}-{each} type veth peer name {name}-{each + 10}" for each in range(10)])
        assert len(settle(monitor)) == 20
        host.ip(*[f"link delete {name}-{each}" for each in range(10)])
        assert settle(monitor) == []
    assert open_descriptors() <= descriptors


def test_an_interface_without_ip_is_rejected_and_logged_once(
    host: Namespace, start_monitor: Callable[..., InterfaceMonitor], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = start_monitor(f"{name}*")
    add_interface_without_ip(name)
    assert settle(monitor) == []
    veth(host, f"{name}x", f"link set {name} alias other")
    assert settle(monitor) == [f"{name}x"]
    assert sum("does not carry IP" in record.getMessage() for record in caplog.records) == 1


def add_interface_without_ip(name: str) -> None:
    """Add a tun device with the hardware type of IEEE 802.15.4."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
    fcntl.ioctl(descriptor, 0x400454CD, 804)  # TUNSETLINK, ARPHRD_IEEE802154
    fcntl.ioctl(descriptor, 0x400454CB, 1)  # TUNSETPERSIST
    os.close(descriptor)


def test_another_selection(
    host: Namespace,
    start_monitor: Callable[..., InterfaceMonitor],
    collector: EppingCollector,
    reader: Reader,
    name: str,
) -> None:
    veth(host, f"{name}a", ADDRESS.format(f"{name}a"))
    veth(host, f"{name}b")
    monitor = start_monitor(f"{name}a")
    hooks = dict(collector.attachments._watched)[f"{name}a"]
    send(host, f"{name}a", 3)
    monitor.select(Selection([f"{name}b", f"{name}c"], [f"{name}a"]))
    assert sorted(collector.attachments.watched) == [f"{name}a", f"{name}b"]
    assert collector.attachments._watched[f"{name}a"] == hooks  # the BPF links are unchanged, so no packet is missed
    send(host, f"{name}a", 4)
    assert sent(reader, f"{name}a") == 7
    reading = reader.read()
    keys = reading.slots["key"][reading.slots["key"]["interface"] == identifier(reading, f"{name}a")]
    assert set(keys["side"][keys["family"] == 4].tolist()) == {0, 1}
    veth(host, f"{name}c")
    assert sorted(settle(monitor)) == [f"{name}{each}" for each in "abc"]


@pytest.mark.parametrize(
    ("wan", "lan", "mirror", "expected"),
    [
        (["eth*"], [], [], {"eth0": Role.WAN, "eth1": Role.WAN}),
        (["/[02]$/"], ["eth1"], [], {"eth0": Role.WAN, "eth1": Role.LAN, "ppp2": Role.WAN}),
        (["eth*"], ["eth*"], [], {"eth0": Role.LAN, "eth1": Role.LAN}),
        (["eth0"], ["eth*"], [], {"eth0": Role.WAN, "eth1": Role.LAN}),
        (["eth0"], ["eth0"], [], {"eth0": Role.LAN}),
        (["auto"], ["*"], [], {"lo": Role.LAN, "eth0": Role.LAN, "eth1": Role.LAN, "ppp2": Role.WAN}),
        (["auto", "ETH0", "th"], [], [], {"ppp2": Role.WAN}),
        (["eth0", "*"], ["eth1"], ["eth*"], {"lo": Role.WAN, "eth0": Role.WAN, "eth1": Role.LAN, "ppp2": Role.WAN}),
        (["eth*"], ["eth*"], ["eth*", "lo"], {"lo": Role.MIRROR, "eth0": Role.MIRROR, "eth1": Role.MIRROR}),
        (["eth0"], ["eth0"], ["eth0"], {"eth0": Role.MIRROR}),
        (["[!e]*"], [], [], {"lo": Role.WAN, "ppp2": Role.WAN}),
    ],
)
def test_roles_of_selected_interfaces(
    wan: list[str], lan: list[str], mirror: list[str], expected: dict[str, Role]
) -> None:
    existing = [links.Link(number, (name,), 1, True) for number, name in enumerate(("lo", "eth0", "eth1", "ppp2"))]
    roles = {link.name: Selection(wan, lan, mirror).role_of(link, {3}) for link in existing}
    assert {name: role for name, role in roles.items() if role} == expected


def test_limits_of_interface_numbers_and_of_equal_indexes() -> None:
    """If all interface numbers are in use, packets are counted without an interface name.

    At most four interfaces can have the same index modulo 4096. A fifth interface with the same index modulo 4096 is
    rejected.
    """
    with Namespace("limits") as host, host.entered(), EppingCollector(SMALL) as collector:
        attachments = collector.attachments
        for number in range(1, INTERFACES + 1):
            assert attachments.register(Interface(f"i{number}", 4096 + number % 3, 14)) == number
        assert attachments.register(Interface("last", 9, 14)) == UNKNOWN_INTERFACE
        assert attachments.register(Interface("i7", 9, 14)) == 7
        for each in range(5):
            veth(host, f"d{each}", options=f"index {107 + 4096 * each}")
        for each in range(4):
            attachments.attach(f"d{each}")
        with pytest.raises(EppingError, match="no room for interface d4: watch fewer"):
            attachments.attach("d4")
        attachments.detach("d2")
        attachments.attach("d4")
        assert on_hooks("d4") == [1, 1]
