# SPDX-License-Identifier: Apache-2.0
"""Tests other programs, with every verdict, on the hooks of an interface.

Each packet is counted once, or the interface becomes not ready within 5 seconds. The hook monitor runs in this process,
on real interfaces. agent/test_hooks.py tests the whole agent.
"""

import itertools
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from otel_epping.kernel import libbpf
from otel_epping.kernel.attach import clsact
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.other_agents import OtherAgents
from otel_epping.kernel.attach.tcx import TcxLink
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from tests.support import other_programs
from tests.support.hosts import Hosts, udp_socket
from tests.support.other_programs import PUT

HOOKS = ["tcx", "clsact"]
POINTS = {"ingress": libbpf.BPF_TC_INGRESS, "egress": libbpf.BPF_TC_EGRESS}
WITHIN_S = 5.0
PACKETS = 20
PUTS = ["first", "last"]


@pytest.fixture(scope="module")
def collectors() -> Iterator[dict[str, EppingCollector]]:
    with ExitStack() as stack:
        yield {
            hook: stack.enter_context(EppingCollector(EppingConfig(max_subnets=64, max_flows=64, hook=hook)))
            for hook in HOOKS
        }


@dataclass
class Watched:
    """An interface that a monitor watches. A test sends packets through the interface."""

    hosts: Hosts
    name: str
    collector: EppingCollector
    monitor: HookMonitor
    ends: list[socket.socket]
    addresses: list[tuple[str, int]]

    def counted(self) -> list[int]:
        """Return two numbers: the received packets and the transmitted packets that the program has counted."""
        numbers = {name: number for number, name in self.collector.attachments.names.items()}
        found: list[int] = self.collector.interface_packets([numbers[self.name]])[0].tolist()
        return found

    def exchange(self) -> list[int]:
        """Send packets in both directions.

        Return the numbers of received and of transmitted packets that were counted.
        """
        before = self.counted()
        for _ in range(PACKETS):
            for end, address in zip(self.ends, self.addresses[::-1], strict=True):
                end.sendto(b"data", address)
        time.sleep(0.05)
        return [after - each for after, each in zip(self.counted(), before, strict=True)]

    def look(self, seconds: float = 1.5) -> None:
        """Let the monitor check the hooks for the given time."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(min(self.monitor.wait_s(), 0.05))
            self.monitor.check()

    def until(self, condition: Callable[[], object], seconds: float = WITHIN_S) -> None:
        """Let the monitor check the hooks until the condition is true."""
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, self.faults
            self.look(0.05)

    @property
    def faults(self) -> list[str]:
        return [each for each in self.collector.attachments.faults if each.startswith(f"{self.name} ")]

    @property
    def is_ready(self) -> bool:
        """Return false if a fault of this interface makes the agent not ready."""
        return self.collector.attachments.state()[self.name] and not self.faults


class Watch:
    """Creates and watches interfaces. Each interface connects two hosts.

    `before` prepares an interface before the agent attaches to it.
    """

    def __init__(self, hosts: Hosts, collectors: dict[str, EppingCollector], undo: ExitStack) -> None:
        self.hosts, self._collectors, self._undo = hosts, collectors, undo

    def __call__(self, hook: str, before: Callable[[str], None] = lambda name: None) -> Watched:
        return self.all(self._collectors[hook], 1, before)[0]

    def all(
        self, collector: EppingCollector, count: int, before: Callable[[str], None] = lambda name: None
    ) -> list[Watched]:
        """Watch several interfaces with one monitor."""
        watched = []
        self._undo.enter_context(self.hosts.here.entered())
        monitor = HookMonitor(collector.attachments, collector.interface_packets)
        self._undo.callback(monitor.close)
        self._undo.callback(collector.attachments.detach_all)
        for number in range(count):
            name = self.hosts.join(number)
            addresses = [(f"10.77.{number}.{host}", 9) for host in (1, 2)]
            ends = [
                self._undo.enter_context(udp_socket(namespace, *address))
                for namespace, address in zip((self.hosts.here, self.hosts.there), addresses, strict=True)
            ]
            before(name)
            collector.attachments.attach(name)
            watched.append(Watched(self.hosts, name, collector, monitor, ends, addresses))
        monitor.check()
        return watched


@pytest.fixture
def watch(hosts: Hosts, collectors: dict[str, EppingCollector]) -> Iterator[Watch]:
    with ExitStack() as undo:
        yield Watch(hosts, collectors, undo)


# ---- other programs that were attached before ours


@pytest.mark.parametrize("verdicts", [("OK",), ("SHOT", "STOLEN"), ("REDIRECT", "PIPE", "TRAP")], ids="+".join)
@pytest.mark.parametrize("hook", HOOKS)
def test_programs_attached_before_run_after_ours(watch: Watch, hook: str, verdicts: tuple[str, ...]) -> None:
    with ExitStack() as others:

        def before(name: str) -> None:
            for verdict, put in zip(verdicts, itertools.cycle(PUTS)):
                others.enter_context(PUT[hook](name, other_programs.VERDICTS[verdict], put))

        watched = watch(hook, before)
        assert watched.exchange() == [PACKETS, PACKETS]
        watched.look()
        assert watched.is_ready
        assert watched.collector.attachments.counts["moved"] == watched.collector.attachments.counts["unseen"] == 0


# ---- other programs that are attached and detached later


@pytest.mark.parametrize("put", PUTS)
@pytest.mark.parametrize("hook", HOOKS)
def test_programs_attached_later_hide_packets_only_briefly(
    watch: Watch, collectors: dict[str, EppingCollector], hook: str, put: str
) -> None:
    """Each verdict has its own interface."""
    every = watch.all(collectors[hook], len(other_programs.VERDICTS))
    assert [each.exchange() for each in every] == [[PACKETS, PACKETS]] * len(every)
    with ExitStack() as others:
        for each, verdict in zip(every, other_programs.VERDICTS.values(), strict=True):
            others.enter_context(PUT[hook](each.name, verdict, put))
        assert_counted_once_or_not_ready(every)
        every[0].look(2)
        assert [each.exchange() for each in every] == [[PACKETS, PACKETS]] * len(every)
        every[0].until(lambda: all(each.is_ready for each in every), 8)
    assert_counted_once_or_not_ready(every)
    every[0].look()
    assert [each.exchange() for each in every] == [[PACKETS, PACKETS]] * len(every)


def assert_counted_once_or_not_ready(every: list[Watched]) -> None:
    """Send packets. Check that each packet is counted once, or that the interface is not ready."""
    missing = [each for each in every if each.exchange() != [PACKETS, PACKETS]]

    def was_not_ready() -> bool:
        missing[:] = [each for each in missing if each.is_ready]
        return not missing

    every[0].until(was_not_ready)


@pytest.mark.parametrize("hook", HOOKS)
def test_a_program_that_hides_no_packets_is_no_fault(watch: Watch, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """The other program hides no packets now, but may hide packets later.

    So the monitor still moves our program to the front.
    """
    caplog.set_level(logging.INFO)
    watched = watch(hook)
    with PUT[hook](watched.name, other_programs.VERDICTS["UNSPEC"], "first"):
        for _ in range(12):
            assert watched.exchange() == [PACKETS, PACKETS]
            watched.look(0.25)
            assert watched.is_ready
        assert caplog.text.count("may run before otel-epping: moved to the front of the hook") == 2


@pytest.mark.parametrize("hook", HOOKS)
def test_three_programs_are_attached_and_detached(watch: Watch, hook: str) -> None:
    watched = watch(hook)
    for verdicts in (("UNSPEC", "OK", "SHOT"), ("STOLEN", "UNSPEC", "REDIRECT")):
        with ExitStack() as others:
            for verdict in verdicts:
                others.enter_context(PUT[hook](watched.name, other_programs.VERDICTS[verdict], "first"))
                assert_counted_once_or_not_ready([watched])
        assert_counted_once_or_not_ready([watched])
        watched.look()
        assert watched.exchange() == [PACKETS, PACKETS]


def test_one_hook_only(watch: Watch) -> None:
    """The other program hides received packets, but not transmitted packets."""
    watched = watch("tcx")
    with other_programs.attached(watched.name, hooks=[libbpf.BPF_TCX_INGRESS], verdict=other_programs.VERDICTS["OK"]):
        assert watched.exchange() == [0, PACKETS]
        watched.until(lambda: not watched.is_ready)
        faults = watched.faults
        assert [fault.split(":")[0] for fault in faults] == [f"{watched.name} ingress"]
        assert watched.exchange() == [PACKETS, PACKETS]


def test_a_program_that_always_moves_to_the_front(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """The monitor moves our program to the front at once, up to three times.

    After three moves, the monitor waits longer, and moves our program only if packets are missing.
    """
    caplog.set_level(logging.INFO)
    watched = watch("tcx")
    ok = other_programs.VERDICTS["OK"]
    with ExitStack() as others:
        for _ in range(5):
            others.enter_context(other_programs.attached(watched.name, verdict=other_programs.TCX_NEXT))
            watched.look(1.5)
        moved = sum("moved to the front" in record.getMessage() for record in caplog.records)
        assert moved <= 2 * 3
        assert watched.exchange() == [PACKETS, PACKETS]
        watched.look(4)
        assert watched.is_ready, "no packets are hidden"
        others.enter_context(other_programs.attached(watched.name, verdict=ok))
        watched.exchange()
        watched.until(lambda: not watched.is_ready)


def test_a_filter_before_which_nobody_can_attach_is_named(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """The filter of the other program has priority 1, and its protocol differs from the protocol of our filter.

    So our filter cannot be placed before the other filter.
    """

    def before(name: str) -> None:
        run = watch.hosts.here.run
        run("tc", "qdisc", "add", "dev", name, "clsact")
        filter_of = ("tc", "filter", "add", "dev", name, "ingress", "pref", "1", "protocol", "ip")
        # this filter matches each packet, and so accepts each packet
        run(*filter_of, "bpf", "bytecode", "1,6 0 0 4294967295,")

    watched = watch("clsact", before)
    assert "other programs run first: bpf" in caplog.text
    assert watched.is_ready, "no packets were hidden yet"
    assert watched.exchange() == [0, PACKETS]
    watched.until(lambda: not watched.is_ready)
    assert "(pref 1) runs before otel-epping: give it a place after otel-epping" in watched.faults[0]
    watch.hosts.here.run("tc", "filter", "del", "dev", watched.name, "ingress", "pref", "1")
    watched.look(1.1)
    assert watched.exchange() == [PACKETS, PACKETS]
    watched.until(lambda: watched.is_ready, 8)


def test_a_tcx_program_before_a_clsact_filter_is_named(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watched = watch("clsact")
    with other_programs.attached(watched.name, verdict=other_programs.VERDICTS["OK"]):
        assert watched.exchange() == [0, 0]
        watched.until(lambda: not watched.is_ready)
        assert "TCX program neighbour (id " in watched.faults[0]
        assert ") runs before otel-epping: use --hook auto" in watched.faults[0]
    assert watched.exchange() == [PACKETS, PACKETS]
    watched.until(lambda: watched.is_ready)


def test_two_agents_do_not_compete(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """The second agent starts, and the first agent does not move its program.

    The first agent ends, and the second agent does not move its program.
    """
    caplog.set_level(logging.INFO)
    config = EppingConfig(max_subnets=64, max_flows=64, hook="tcx")
    with EppingCollector(config) as first, EppingCollector(config) as second:
        (watched,) = watch.all(first, 1)
        second.attachments.attach(watched.name)
        monitor = HookMonitor(second.attachments, second.interface_packets)
        for _ in range(30):
            monitor.check()
            watched.look(0.1)
        assert watched.exchange() == [PACKETS, PACKETS]
        assert second.interface_packets([1]).tolist() == [[PACKETS, PACKETS]]
        assert watched.is_ready
        first.attachments.detach_all()
        for _ in range(20):
            monitor.check()
            time.sleep(0.1)
        monitor.close()
        assert second.attachments.faults == ()
    assert "moved" not in caplog.text


def test_a_program_attached_together_with_an_agent_is_found(watch: Watch) -> None:
    watched = watch("tcx")
    OtherAgents().announce(socket.if_nametoindex(watched.name))
    with other_programs.attached(watched.name, verdict=other_programs.VERDICTS["OK"]):
        watched.look(1.1)
        assert watched.is_ready, "the monitor assumes that the program belongs to the other agent"
        until = time.monotonic() + WITHIN_S
        while watched.is_ready:
            assert time.monotonic() < until
            assert watched.exchange() == [0, 0]
            watched.look(0.3)
        watched.look(2)
        assert watched.exchange() == [PACKETS, PACKETS]
        watched.until(lambda: watched.is_ready)


# ---- removed and replaced programs


def detach_links(watched: Watched) -> None:
    for *_, hook in watched.collector.attachments.hooks():
        assert isinstance(hook, TcxLink)
        libbpf.link_detach(hook._fd)


def replace_programs(watched: Watched) -> None:
    """Replace the program of our links by another program. The links stay."""
    with other_programs.loaded(other_programs.VERDICTS["OK"]) as program:
        for *_, hook in watched.collector.attachments.hooks():
            assert isinstance(hook, TcxLink)
            libbpf.link_update(hook._fd, program)


def remove_qdisc(watched: Watched) -> None:
    watched.hosts.here.run("tc", "qdisc", "del", "dev", watched.name, "clsact")


def replace_qdisc(watched: Watched) -> None:
    remove_qdisc(watched)
    watched.hosts.here.run("tc", "qdisc", "add", "dev", watched.name, "clsact")


def remove_filters(watched: Watched) -> None:
    for direction in POINTS:
        watched.hosts.here.run("tc", "filter", "del", "dev", watched.name, direction)


def remove_one_filter(watched: Watched) -> None:
    watched.hosts.here.run("tc", "filter", "del", "dev", watched.name, "egress", "pref", "1")


def replace_filters(watched: Watched) -> None:
    """Replace the program of our filters by a program that accepts all packets.

    The filters keep their priority and handle.
    """
    found = [each for way in POINTS for each in clsact.in_order(socket.if_nametoindex(watched.name), way)]
    with other_programs.loaded(other_programs.VERDICTS["OK"]) as program:
        for each in found:
            hook = libbpf._tc_hook(socket.if_nametoindex(watched.name), POINTS[each.direction])
            taken = {"handle": each.handle, "priority": each.priority}
            options = libbpf._tc_options(program_fd=program, flags=1, **taken)  # BPF_TC_F_REPLACE
            assert libbpf._library().bpf_tc_attach(hook, options) == 0


@pytest.mark.parametrize(
    ("hook", "take"),
    [
        ("tcx", detach_links),
        ("tcx", replace_programs),
        ("clsact", remove_qdisc),
        ("clsact", replace_qdisc),
        ("clsact", remove_filters),
        ("clsact", remove_one_filter),
        ("clsact", replace_filters),
    ],
)
def test_a_removed_program_is_attached_again(
    watch: Watch, caplog: pytest.LogCaptureFixture, hook: str, take: Callable[[Watched], None]
) -> None:
    watched = watch(hook)
    before = watched.collector.attachments.counts["reattached"]
    take(watched)
    assert not watched.is_ready
    watched.exchange()
    watched.look()
    lost = 1 if take is remove_one_filter else 2
    assert watched.collector.attachments.counts["reattached"] == before + lost
    assert sum("detached otel-epping's program: attached again" in each.getMessage() for each in caplog.records) == lost
    assert not watched.is_ready, "packets were missed in the meantime"
    assert watched.exchange() == [PACKETS, PACKETS]
    watched.until(lambda: watched.is_ready)
    assert watched.exchange() == [PACKETS, PACKETS]


def test_a_repeatedly_removed_program_is_attached_ever_less_often(
    watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    watched = watch("clsact")
    until = time.monotonic() + 9
    while time.monotonic() < until:
        watched.hosts.here.run("sh", "-c", f"tc qdisc del dev {watched.name} clsact 2>/dev/null || true")
        watched.look(0.3)
        assert not watched.is_ready
    again = [each.getMessage() for each in caplog.records if f"{watched.name} egress" in each.getMessage()]
    assert 2 <= len(again) <= 4  # the monitor attaches the program again at once, and then after 2, 4 and 8 s
    assert "find that process with bpftool net show and tc monitor" in again[-1]


def test_an_ingress_qdisc_replaces_the_clsact_qdisc(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """An ingress qdisc replaces our clsact qdisc, and the log names the ingress qdisc.

    After the ingress qdisc is deleted, the monitor attaches our program again.
    """
    watched = watch("clsact")
    remove_qdisc(watched)
    watched.hosts.here.run("tc", "qdisc", "add", "dev", watched.name, "ingress")
    watched.look(4)
    assert not watched.is_ready
    refused = [each for each in caplog.records if "cannot be attached again: interface" in each.getMessage()]
    assert len(refused) == 2, "the fault is logged once for each direction"
    assert "has an ingress qdisc" in refused[0].getMessage()
    watched.hosts.here.run("tc", "qdisc", "del", "dev", watched.name, "ingress")
    watched.until(lambda: watched.is_ready, 20)
    assert watched.exchange() == [PACKETS, PACKETS]


def test_a_removed_interface_is_no_fault(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watched = watch("tcx")
    watched.hosts.here.ip(f"link delete {watched.name}")
    watched.look(2.5)
    assert watched.collector.attachments.faults == ()
    assert caplog.text == ""


def test_the_monitor_continues_after_a_time_without_descriptors(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watched = watch("clsact")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    remove_qdisc(watched)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        watched.look(2.5)
        faults = watched.collector.attachments.faults
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(faults) == 1
    assert "cannot check the hooks of interfaces ([Errno 24] Too many open files)" in faults[0]
    assert caplog.text.count("Too many open files") == 1
    watched.look(1.5)
    assert watched.exchange() == [PACKETS, PACKETS], (
        "attached again, although no descriptor was free when the qdisc was deleted"
    )
    watched.until(lambda: not watched.collector.attachments.faults)


# ---- the comparison of packets


def test_an_xdp_program_that_drops_is_named(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    watched = watch("tcx")
    with other_programs.loaded(other_programs.XDP_DROP, other_programs.BPF_PROG_TYPE_XDP) as program:
        with other_programs.xdp(watched.name, program):
            until = time.monotonic() + WITHIN_S
            while watched.is_ready:
                assert time.monotonic() < until
                assert watched.exchange()[0] == 0
                watched.look(0.3)
            (fault,) = watched.faults
            assert fault.startswith(
                f"{watched.name} ingress: the kernel counts packets that otel-epping does not see: the XDP program"
            )
        watched.exchange()
        watched.until(lambda: watched.is_ready)
    assert "packets are seen again" in caplog.text


def test_an_xdp_program_that_drops_some_packets_is_no_fault(watch: Watch, caplog: pytest.LogCaptureFixture) -> None:
    """An XDP program drops some packets, so packets are missing on the hook. The missing packets are no fault.

    A second program on the hook is no fault either. The monitor moves our program before the second program, and the
    same packets are still missing.
    """
    caplog.set_level(logging.INFO)
    watched = watch("tcx")
    with (
        other_programs.loaded(other_programs.XDP_DROP, other_programs.BPF_PROG_TYPE_XDP) as program,
        ExitStack() as others,
    ):
        for turn in range(20):
            assert watched.exchange()[0] == PACKETS
            with other_programs.xdp(watched.name, program):
                watched.exchange()
            if turn == 8:
                others.enter_context(other_programs.attached(watched.name))
            watched.look(0.4)
            assert watched.is_ready or turn > 8
        watched.until(lambda: watched.is_ready)
    assert caplog.text.count("moved to the front") == 2
    assert "that otel-epping does not see" not in caplog.text


def test_an_xdp_program_that_passes_is_no_fault(watch: Watch) -> None:
    watched = watch("tcx")
    with (
        other_programs.loaded(other_programs.XDP_PASS, other_programs.BPF_PROG_TYPE_XDP) as program,
        other_programs.xdp(watched.name, program),
    ):
        for _ in range(10):
            assert watched.exchange() == [PACKETS, PACKETS]
            watched.look(0.4)
            assert watched.is_ready


def test_packets_that_bypass_the_queue(watch: Watch) -> None:
    """A socket with PACKET_QDISC_BYPASS sends packets that do not pass the hook.

    A few packets that bypass the hook are no fault. A stream of packets that bypass the hook is a fault.
    """
    watched = watch("tcx")
    watched.look(2.1)
    frame = bytes.fromhex("020000000002 020000000001 88b5") + bytes(46)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as bypass:
        bypass.setsockopt(263, 20, 1)  # SOL_PACKET, PACKET_QDISC_BYPASS
        bypass.bind((watched.name, 0))
        for _ in range(5):
            bypass.send(frame)
            watched.look(0.8)
            assert watched.is_ready
        until = time.monotonic() + WITHIN_S
        while watched.is_ready:
            assert time.monotonic() < until
            for _ in range(10):
                bypass.send(frame)
            watched.look(0.2)
    assert f"{watched.name} egress" in watched.faults[0]
    assert "PACKET_QDISC_BYPASS" in watched.faults[0]


def test_broadcasts_and_aggregates_are_no_fault(watch: Watch) -> None:
    """The kernel's packet count differs from our packet count for two reasons. Neither reason is a fault.

    The kernel receives a copy of its own broadcasts. The kernel counts an aggregate of several TCP segments as one
    packet.
    """
    watched = watch("tcx")
    watched.ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    with watched.hosts.there.entered():
        listener = socket.create_server(("10.77.0.2", 0))
    with listener, socket.create_connection(listener.getsockname()) as sender, listener.accept()[0] as receiver:
        for _ in range(12):
            watched.ends[0].sendto(b"all", ("10.77.0.255", 9))
            sender.sendall(bytes(200_000))
            left = 200_000
            while left:
                left -= len(receiver.recv(left))
            watched.look(0.4)
            assert watched.is_ready, watched.faults
