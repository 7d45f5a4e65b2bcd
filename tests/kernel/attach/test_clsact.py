# SPDX-License-Identifier: Apache-2.0
"""Tests filters on the clsact hook. The agent counts the same packets with clsact filters as with TCX. The agent's
filters work next to other filters.

After the agent ends, none of its filters is left.
"""

import itertools
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from bench.programs import load, run_times
from otel_epping.kernel import libbpf
from otel_epping.kernel.netlink import traffic_control
from otel_epping.kernel.netlink.traffic_control import Filter
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.support.command import Agent, converse, epping
from tests.support.hosts import Hosts, dropping, latest_total, program_id, runs, udp_socket
from tests.support.seccomp import BEFORE_TCX
from tests.support.unprivileged import AGENT

CLSACT = ("--hook", "clsact")
# Tests that do not check exports use the console exporter, which cannot fail and cannot delay the end of the agent.
ANYWHERE = {"OTEL_METRICS_EXPORTER": "console"}
ACCEPT = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = TC_ACT_OK; exit
POINTS = {"ingress": libbpf.BPF_TC_INGRESS, "egress": libbpf.BPF_TC_EGRESS}


def filters(namespace: Namespace, name: str) -> list[Filter]:
    """Return all filters of an interface. List heads, which have no handle, are not filters and are left out."""
    with namespace.entered():
        ifindex = socket.if_nametoindex(name)
        return [one for way in POINTS for one in traffic_control.filters(ifindex, way) if one.handle]


def has_qdisc(namespace: Namespace, name: str) -> bool:
    return "clsact" in namespace.run("tc", "qdisc", "show", "dev", name)


@pytest.fixture
def up0(ns: Namespace) -> Iterator[str]:
    yield "up0"
    assert not has_qdisc(ns, "up0")
    assert not has_qdisc(ns, "lo")


def test_clsact_counts_the_same_as_tcx_and_leaves_nothing(ns: Namespace, up0: str, start: Callable[..., Agent]) -> None:
    with Sink(namespace=ns) as first, Sink(namespace=ns) as second:
        agents = [
            start("-i", "lo", *hook, "--sample-interval", "0", OTEL_EXPORTER_OTLP_ENDPOINT=sink.http_endpoint,
                  OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=sink.http_endpoint, OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
            for hook, sink in ((CLSACT, first), (("--hook", "tcx"), second))
        ]  # fmt: skip
        converse(ns)
        assert len(filters(ns, "lo")) == 2
        # The exports of each agent add packets to the loopback interface. So the test compares the number of TCP RTTs,
        # and not the number of packets.
        assert [agent.stop() for agent in agents] == [0, 0]
        counts = []
        for sink in (first, second):
            rtts = [p for p in sink.points(metric_table.RTT.name) if p.attributes[semconv.METHOD] == "tcp_timestamp"]
            counts.append(sum(point.point.count for point in rtts))
        assert min(counts) >= 20
        assert "CAP_NET_ADMIN: kept" in agents[0].log.read_text()
        assert "kept" not in agents[1].log.read_text()


def test_other_filters_see_all_packets_and_stay(hosts: Hosts, start: Callable[..., Agent]) -> None:
    """The agent sees all packets, although another program has priority 1.

    The first program, with priority 1, drops packets of 101 bytes. The last program drops packets of 102 bytes. Packets
    of 100 bytes pass all programs.
    """
    name = hosts.join(0)
    hosts.here.run("tc", "qdisc", "add", "dev", name, "clsact")
    with Sink(namespace=hosts.here) as sink, ExitStack() as undo:
        undo.enter_context(run_times())
        before, after = load("before", dropping(101)), load("after", dropping(102))
        for fd in (before, after):
            undo.callback(os.close, fd)

        def attach(fd: int, priority: int) -> None:
            with hosts.here.entered():
                for point in POINTS.values():
                    libbpf.tc_attach(fd, socket.if_nametoindex(name), point, 1, priority)

        attach(before, 1)
        attach(after, 0)
        theirs_before = filters(hosts.here, name)
        agent = start("-i", name, *CLSACT, namespace=hosts.here, OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        assert [one.name.split(":")[0] for one in filters(hosts.here, name)] == [
            each for way in ("ingress", "egress") for each in (f"epping_{way}", "before", "after")
        ]
        here = undo.enter_context(udp_socket(hosts.here, "10.77.0.1", 9))
        there = undo.enter_context(udp_socket(hosts.there, "10.77.0.2", 9))
        for one, other in ((here, "10.77.0.2"), (there, "10.77.0.1")):
            for length in (100, 101, 102) * 20:
                one.sendto(bytes(length - 14 - 20 - 8), (other, 9))
        for one in (here, there):
            one.settimeout(1)
            assert {len(one.recv(2000)) for _ in range(20)} == {100 - 42}
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(2000)
        assert (runs(before), runs(after)) == (120, 80)
        assert agent.stop() == 0
        assert latest_total(sink, "epping.interface.packet.count") == 120
        assert "are first" not in agent.log.read_text()
        left = filters(hosts.here, name)
        assert [one.program for one in left] == [program_id(before), program_id(after)] * 2
        assert set(theirs_before) <= set(left)
        assert has_qdisc(hosts.here, name)


@pytest.mark.parametrize("when", ["earlier", "later"])
def test_packets_that_other_filters_accept_are_counted(hosts: Hosts, start: Callable[..., Agent], when: str) -> None:
    """The other filters run after the filters of the agent. The other filters are attached with priority 2 or 0.
    Priority 0 means that the kernel chooses the priority."""
    name = hosts.join(0)
    with Sink(namespace=hosts.here) as sink, ExitStack() as undo:
        accepting = load("accepting", ACCEPT)
        undo.callback(os.close, accepting)

        def others() -> None:
            hosts.here.run("sh", "-c", f"tc qdisc show dev {name} | grep -q clsact || tc qdisc add dev {name} clsact")
            with hosts.here.entered():
                for point, priority in itertools.product(POINTS.values(), (0, 2)):
                    libbpf.tc_attach(accepting, socket.if_nametoindex(name), point, 1, priority)

        if when == "earlier":
            others()
        agent = start("-i", name, *CLSACT, namespace=hosts.here, OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        if when == "later":
            others()
        here = undo.enter_context(udp_socket(hosts.here, "10.77.0.1", 9))
        there = undo.enter_context(udp_socket(hosts.there, "10.77.0.2", 9))
        for _ in range(20):
            here.sendto(b"there", ("10.77.0.2", 9))
            there.sendto(b"back", ("10.77.0.1", 9))
        assert agent.stop() == 0
        assert latest_total(sink, "epping.interface.packet.count") == 40
        assert "other programs run first" not in agent.log.read_text()


def test_an_ingress_qdisc_is_an_error_with_the_cure(ns: Namespace, up0: str) -> None:
    """An interface with an ingress qdisc cannot have a clsact qdisc.

    An egress filter on an ingress qdisc would get received packets.
    """
    ns.run("tc", "qdisc", "add", "dev", up0, "ingress")
    refused = epping(ns, "run", "-i", up0, *CLSACT)
    assert refused.returncode == 1
    line = refused.stderr.strip().splitlines()[-1]
    assert line.startswith(f"otel-epping: interface {up0} has an ingress qdisc")
    assert f"tc qdisc add dev {up0} clsact" in line
    assert filters(ns, up0) == []
    assert "ingress" in ns.run("tc", "qdisc", "show", "dev", up0)
    ns.run("tc", "qdisc", "del", "dev", up0, "ingress")


def test_tcx_works_with_an_ingress_qdisc(ns: Namespace, up0: str, start: Callable[..., Agent]) -> None:
    ns.run("tc", "qdisc", "add", "dev", up0, "ingress")
    assert start("-i", up0, **ANYWHERE).stop() == 0
    ns.run("tc", "qdisc", "del", "dev", up0, "ingress")


def test_an_unused_qdisc_of_somebody_else_stays(ns: Namespace, up0: str, start: Callable[..., Agent]) -> None:
    ns.run("tc", "qdisc", "add", "dev", up0, "clsact")
    agent = start("-i", up0, *CLSACT, **ANYWHERE)
    assert len(filters(ns, up0)) == 2
    agent.stop()
    assert filters(ns, up0) == []
    assert has_qdisc(ns, up0)
    ns.run("tc", "qdisc", "del", "dev", up0, "clsact")


def test_our_qdisc_stays_if_another_filter_uses_it(hosts: Hosts, start: Callable[..., Agent]) -> None:
    name = hosts.join(0)
    agent = start("-i", name, *CLSACT, namespace=hosts.here, **ANYWHERE)
    other = load("other", dropping(101))
    with hosts.here.entered():
        libbpf.tc_attach(other, socket.if_nametoindex(name), libbpf.BPF_TC_EGRESS, 1, 0)
    agent.stop()
    assert [one.program for one in filters(hosts.here, name)] == [program_id(other)]
    os.close(other)


def test_the_next_agent_removes_filters_of_a_killed_agent(ns: Namespace, up0: str, start: Callable[..., Agent]) -> None:
    """The next agent also removes old filters from interfaces that it does not watch.

    Filters of a running agent stay.
    """
    living = start("-i", "lo", *CLSACT, **ANYWHERE)
    killed = start("-i", "lo", "-i", up0, *CLSACT, **ANYWHERE)
    before = filters(ns, "lo")
    assert len(before) == 4
    killed.process.kill()
    killed.process.wait()
    assert len(filters(ns, "lo") + filters(ns, up0)) == 6
    following = start("-i", "lo", *CLSACT, **ANYWHERE)
    assert "removed filters of a killed agent from lo, up0" in following.log.read_text()
    assert not has_qdisc(ns, up0)
    assert len(filters(ns, "lo")) == 4
    assert len(set(before) & set(filters(ns, "lo"))) == 2
    living.stop()  # The first agent has created the qdisc, and the third agent still uses the qdisc.
    assert len(filters(ns, "lo")) == 2
    following.stop()


def test_a_filter_of_somebody_else_with_our_name_stays(ns: Namespace, up0: str, start: Callable[..., Agent]) -> None:
    """The other program's filter differs from the agent's own filter only in its handle. The agent does not change the
    other program's filter."""
    other = load("epping_ingress", dropping(101))
    ns.run("tc", "qdisc", "add", "dev", up0, "clsact")
    with ns.entered():
        libbpf.tc_attach(other, socket.if_nametoindex(up0), libbpf.BPF_TC_INGRESS, 1, 0)
    start("-i", up0, *CLSACT, **ANYWHERE).stop()
    assert [one.program for one in filters(ns, up0)] == [program_id(other)]
    ns.run("tc", "qdisc", "del", "dev", up0, "clsact")
    os.close(other)


def test_a_new_interface_with_the_same_name_is_watched(hosts: Hosts, start: Callable[..., Agent]) -> None:
    name = hosts.join(0)
    agent = start("-i", name, *CLSACT, namespace=hosts.here, **ANYWHERE)
    hosts.here.ip(f"link delete {name}")
    agent.wait_for(f"detached from {name}")
    hosts.join(0)
    agent.wait_for(f"attached to {name}")
    assert len(filters(hosts.here, name)) == 2
    assert agent.stop() == 0
    assert "filter is left" not in agent.log.read_text()
    assert not has_qdisc(hosts.here, name)


def test_a_kernel_without_tcx(ns: Namespace, up0: str, start: Callable[..., Agent]) -> None:
    """A seccomp filter simulates a kernel without TCX.

    Without TCX, the agent needs CAP_NET_ADMIN to attach to interfaces that appear later. So the agent keeps
    CAP_NET_ADMIN, and logs that the capability is kept.
    """
    command = [*BEFORE_TCX, *AGENT]
    assert "hook           clsact filters" in epping(ns, "check", "--max-subnets", "64", command=command).stdout
    agent = start("-i", "auto", command=command, **ANYWHERE)
    log = agent.log.read_text()
    assert "CAP_NET_ADMIN: kept" in log
    assert "watching no interface yet" in log
    ns.ip(f"route add default dev {up0}")
    agent.wait_for(f"attached to {up0}")
    assert len(filters(ns, up0)) == 2
    ns.ip(f"route delete default dev {up0}")
    agent.wait_for(f"detached from {up0}")
    assert filters(ns, up0) == []
    assert agent.stop() == 0


def test_check_reports_the_hook(ns: Namespace) -> None:
    for hook, words in (("auto", "TCX links"), ("clsact", "clsact filters")):
        assert f"hook           {words}" in epping(ns, "check", "--hook", hook, "--max-subnets", "64").stdout
