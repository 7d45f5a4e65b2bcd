# SPDX-License-Identifier: Apache-2.0
"""Tests that interface numbers are reused, and that series of removed interfaces end.

A series ends after all of its counts are exported. Each count is exported exactly once, and only for its own interface.
"""

import socket
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.attachments import INTERFACES, UNKNOWN_INTERFACE
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.attach.interface_numbers import GONE_NS, InterfaceNumbers
from otel_epping.kernel.attach.interfaces import Interface, Role
from otel_epping.kernel.attach.selection import Selection
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import IDLE_TIMEOUTS_NS, EppingConfig
from otel_epping.kernel.reading import Reading
from otel_epping.lab.namespaces import Namespace
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.producer import EppingMetricProducer
from tests.support.handshake import shake_hands
from tests.support.metrics import EVERYTHING
from tests.support.prog_test_run import LO, MS, Bench

pytestmark = pytest.mark.parallel


CUMULATIVE, DELTA = AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA
SMALL = EppingConfig(max_subnets=4096, max_flows=1024, sample_interval_ns=0)
NOTHING = np.zeros(3, np.uint64)


@dataclass
class Time:
    """A simulated clock. The test sets the time of this clock."""

    now_ns: int = 10**15

    def __call__(self) -> int:
        return self.now_ns

    def pass_by(self, time_ns: int = GONE_NS) -> None:
        self.now_ns += time_ns


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def numbers(clock: Time) -> InterfaceNumbers:
    numbers = InterfaceNumbers()
    numbers.now_ns = clock
    return numbers


def test_a_number_belongs_to_a_name_until_it_ends(numbers: InterfaceNumbers, clock: Time) -> None:
    assert [numbers.assign(name) for name in ("a", "b", "a")] == [(1, 1), (2, 2), (1, 1)]
    numbers.mark_gone("a")
    assert not numbers.gone()
    clock.pass_by(GONE_NS - 1)
    assert not numbers.gone()
    clock.pass_by(1)
    (gone,) = numbers.gone()
    assert numbers.assign("a") == (1, 1), "the interface was created again"
    assert not numbers.gone()
    assert not numbers.end(gone, NOTHING)
    numbers.mark_gone("a")
    clock.pass_by()
    assert not numbers.end(gone, NOTHING), "the interface returned, and was removed again"
    (gone,) = numbers.gone()
    assert numbers.end(gone, NOTHING)
    assert not numbers.end(gone, NOTHING)
    assert numbers.names == {0: "", 2: "b"}
    assert [numbers.get(name, 0) for name in ("a", "b")] == [0, 2]
    assert numbers.assign("c") == (3, 1)
    assert numbers.assign("a") == (4, 3)


def test_counts_of_a_reused_number_start_at_zero(numbers: InterfaceNumbers, clock: Time) -> None:
    numbers.assign("a")
    numbers.assign("b")
    numbers.mark_gone("a")
    clock.pass_by()
    (gone,) = numbers.gone()
    raw = np.array([[7, 2**64 - 1, 0], [1, 1, 1]], np.uint64)
    assert (numbers.counted([1, 2], raw) == raw).all()
    assert numbers.end(gone, raw[0])
    identifier, number = numbers.assign("c")
    assert numbers.numbers_of([identifier, 2]) == [number, 2] == [1, 2]
    raw[0] += np.array([1, 2, 3], np.uint64)  # the second counter overflows
    assert numbers.counted([1, 2], raw).tolist() == [[1, 2, 3], [1, 1, 1]]


def test_identifiers_in_use_are_not_assigned(numbers: InterfaceNumbers, clock: Time) -> None:
    numbers.assign("stays")
    seen = set()
    for turn in range(70_000):
        identifier, number = numbers.assign(f"i{turn}")
        assert number == 2
        if turn < 65_000:
            assert identifier not in seen
        seen.add(identifier)
        numbers.mark_gone(f"i{turn}")
        clock.pass_by()
        (gone,) = numbers.gone()
        assert numbers.end(gone, NOTHING)
    assert seen == set(range(2, 1 << 16))


def test_names_after_the_last_number_share_one(numbers: InterfaceNumbers) -> None:
    for each in range(INTERFACES):
        assert numbers.assign(f"i{each}")[1] == each + 1
    assert numbers.assign("last") == (UNKNOWN_INTERFACE, UNKNOWN_INTERFACE)
    assert numbers.assign("i7") == (8, 8)


# ---- with the kernel program


@pytest.fixture
def host() -> Iterator[Namespace]:
    with Namespace("numbers") as namespace, namespace.entered():
        yield namespace


@pytest.fixture(params=IDLE_TIMEOUTS_NS, ids=["without idle timeout", "with idle timeout"])
def collector(request: pytest.FixtureRequest, clock: Time) -> Iterator[EppingCollector]:
    with EppingCollector(SMALL, request.param) as collector:
        collector.attachments.numbers.now_ns = clock
        yield collector


PEERS = count()


def appear(host: Namespace, collector: EppingCollector, name: str) -> None:
    """Add a veth with an address in 10.8.0.0/24, and watch the veth. Measure one RTT in each direction."""
    peer = f"p{next(PEERS)}"
    host.ip(
        f"link add {name} type veth peer name {peer}",
        f"address add 10.8.0.1/24 dev {name}",
        f"link set {name} up",
        f"link set {peer} up",
    )
    collector.attachments.attach(name)
    shake_hands(name, peer, "10.8.0.1", "10.8.0.2")


def vanish(host: Namespace, collector: EppingCollector, name: str) -> None:
    host.ip(f"link delete {name}")
    collector.attachments.detach(name)


def send(name: str, packets: int) -> None:
    """Send UDP packets out of an interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        for _ in range(packets):
            sender.sendto(b"to nobody", ("10.8.0.255", 9))


Series = tuple[tuple[str, object], ...]


@dataclass
class Exporter:
    """An exporter that may fail.

    The exporter also stores the received data: the points by series, and the totals by metric and interface.
    """

    producer: EppingMetricProducer
    latest: dict[str, set[str]] = field(default_factory=dict)  # metric -> interfaces in the latest export of the metric
    totals: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    points: dict[tuple[str, Series], tuple[int, int, int]] = field(default_factory=dict)

    def export(self, *, arrives: bool = True) -> None:
        self.producer.read()
        self.latest = {metric.name: set() for metric in METRICS}
        for batch in self.producer.batches():
            for metric in self.producer.metrics(batch).metrics:
                if metric.name in self.latest:
                    for point in metric.data.data_points:
                        self._take(metric.name, point, arrives=arrives)
            if arrives:
                self.producer.acknowledge(batch)

    def _take(self, metric: str, point: Any, *, arrives: bool) -> None:
        attributes = point.attributes
        if semconv.UNANSWERED in attributes:  # the kernel sends some IPv6 packets on each new interface
            assert "udp" not in attributes.values()
            return
        name = attributes[semconv.INTERFACE]
        self.latest[metric].add(name)
        if not arrives or "udp" not in attributes.values():
            return
        key = metric, tuple(sorted(attributes.items()))
        start_ns, time_ns, value = point.start_time_unix_nano, point.time_unix_nano, point.value
        assert start_ns < time_ns
        assert value > 0
        before_start_ns, before_ns, before = self.points.get(key, (0, 0, 0))
        assert time_ns > before_ns, "a series has one point in each export"
        if self.producer.temporality is DELTA or start_ns != before_start_ns:
            assert start_ns >= before_ns, "a series must not start again before its last point ended"
            before = 0
        assert value >= before
        self.totals[metric, name] += value - before
        self.points[key] = start_ns, time_ns, value


METRICS = (metric_table.INTERFACE_PACKETS, metric_table.SUBNET_PACKETS)


def sent(exporter: Exporter, name: str) -> list[int]:
    """Return two numbers from the received exports: the UDP packets of the interface, and the UDP packets of the
    interface's subnets."""
    return [exporter.totals[metric.name, name] for metric in METRICS]


def packets(number: int) -> list[int]:
    return [number, 2 * number]


@pytest.mark.parametrize("temporality", [CUMULATIVE, DELTA])
def test_an_interface_ends_when_all_exporters_have_delivered(
    host: Namespace, collector: EppingCollector, clock: Time, temporality: AggregationTemporality
) -> None:
    first = Exporter(EppingMetricProducer(collector, temporality, EVERYTHING))
    second = Exporter(EppingMetricProducer(collector, DELTA, EVERYTHING))
    appear(host, collector, "va")
    send("va", 3)
    first.export()
    second.export(arrives=False)
    send("va", 4)
    vanish(host, collector, "va")
    for _ in range(3):  # less than GONE_NS has passed since the interface was removed
        first.export()
        second.export(arrives=False)
    clock.pass_by()
    for _ in range(3):  # only the first exporter has delivered all counts so far
        first.export()
        second.export(arrives=False)
    assert sent(first, "va") == packets(7)
    assert list(collector.attachments.state()) == ["va"]
    for _ in range(2):
        second.export()
        first.export()
    second.export()
    first.export()
    assert sent(first, "va") == sent(second, "va") == packets(7)
    assert collector.attachments.state() == {}
    for exporter in (first, second):
        exporter.export()
        assert exporter.latest == {metric.name: set() for metric in METRICS}

    appear(host, collector, "vb")  # vb gets the number that va had
    send("vb", 2)
    for exporter in (first, second):
        exporter.export()
        assert sent(exporter, "vb") == packets(2)
    assert collector.attachments.numbers.used == 2
    vanish(host, collector, "vb")
    appear(host, collector, "va")  # va gets another number than before
    send("va", 5)
    for _ in range(2):
        for exporter in (first, second):
            exporter.export()
    assert sent(first, "va") == sent(second, "va") == packets(12)
    assert sent(first, "vb") == sent(second, "vb") == packets(2)


def test_series_continue_if_the_interface_returns_before_they_end(
    host: Namespace, collector: EppingCollector, clock: Time
) -> None:
    exporter = Exporter(EppingMetricProducer(collector, CUMULATIVE, EVERYTHING))
    for turn in range(1, 4):
        appear(host, collector, "va")
        send("va", 5)
        vanish(host, collector, "va")
        clock.pass_by()
        exporter.export()  # if va did not return, its series would end at the next export
        assert sent(exporter, "va") == packets(5 * turn)
    assert len(exporter.points) == 3, "all points are of the same three series"
    assert all(value == 15 for *_, value in exporter.points.values())


def test_slots_of_a_removed_interface_are_freed(host: Namespace, collector: EppingCollector, clock: Time) -> None:
    reader = collector.reader()
    for turn in range(3):
        appear(host, collector, f"va{turn}")
        send(f"va{turn}", 3)
        reading = reader.read()
        keys = reading.slots["key"][reading.slots["state"] != 0]
        (identifier,) = (each for each, name in reading.names.items() if name)
        assert set(keys["interface"].tolist()) == {identifier}
        vanish(host, collector, f"va{turn}")
        clock.pass_by()
        for _ in range(2):
            reader.read()
        reading = reader.read()
        assert not (reading.slots["state"] != 0).any()
        assert not reading.created_ns.any()
        assert reading.names == {0: ""}


def test_flows_of_a_removed_interface_end_as_idle(host: Namespace, collector: EppingCollector, clock: Time) -> None:
    """The test has an open connection through a veth. The peer of the veth is in another namespace."""
    with Namespace("far") as far:
        host.ip(
            f"link add va type veth peer name vb netns {far.path}", "address add 10.8.0.1/24 dev va", "link set va up"
        )
        far.ip("address add 10.8.0.2/24 dev vb", "link set vb up")
        collector.attachments.attach("va")
        reader = collector.reader()
        with far.entered():
            listener = socket.create_server(("10.8.0.2", 5000))
        with listener, socket.create_connection(("10.8.0.2", 5000), 10) as client, listener.accept()[0] as server:
            client.sendall(b"data")
            assert server.recv(4) == b"data"
            reading = reader.read()
            assert int(reading.active.sum()) == 2
            flows = reading.flows_evicted
            vanish(host, collector, "va")
            assert int(reader.read().active.sum()) == 2
            clock.pass_by()
            reading = reader.read()
            assert int(reading.active.sum()) == 0
            assert int(reading.counters["silence"].sum()) == 2
            for _ in range(2):
                reading = reader.read()
            assert not (reading.slots["state"] != 0).any()
            assert reading.flows_evicted == flows, "no flow was evicted"


@pytest.mark.parametrize("ends", [False, True])
def test_flows_of_a_removed_interface_do_not_match_on_its_successor(clock: Time, ends: bool) -> None:
    """The request and its reply use different interfaces.

    The interface of the request was removed before the reply. The interface of the reply has the same index and the
    same number as the removed interface.
    """
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=64, max_flows=64, sample_interval_ns=0))
    attachments, reader = bench.collector.attachments, bench.collector.reader()
    attachments.numbers.now_ns = clock
    flow = bench.flow().begun(1000)
    flow.client(1 * MS, 1001)
    attachments.numbers.mark_gone(LO.name)
    clock.pass_by()
    for _ in range(2 if ends else 1):
        reader.read()
    attachments.register(replace(LO, name="next" if ends else LO.name))
    assert bench.row == bench.row_of(LO.ifindex)
    with bench.counting() as counted:
        assert flow.server(2 * MS, 5000, tsecr=1001) == (None if ends else 1 * MS)
    assert counted["flows_created"] == ends
    reading = reader.read()
    keys = reading.slots["key"][reading.slots["state"] != 0]
    assert {reading.names[each] for each in keys["interface"].tolist()} == {"next" if ends else LO.name}
    passed = sum(int(reading.interfaces[way]["packets"].sum()) for way in ("received", "transmitted"))
    assert passed == (1 if ends else 3)
    bench.close()


def test_thousands_of_names(collector: EppingCollector, clock: Time) -> None:
    """Each of thousands of interfaces exists only briefly, as with containers.

    Each interface gets a number. At the end, all numbers are free.
    """
    exporters = [
        Exporter(EppingMetricProducer(collector, temporality, EVERYTHING)) for temporality in (CUMULATIVE, DELTA)
    ]
    attachments = collector.attachments
    for begin in range(0, 5000, 250):
        names = [f"veth{begin + each}" for each in range(250)]
        for ifindex, name in enumerate(names):
            assert attachments.register(Interface(name, 2 + ifindex, 14)) != UNKNOWN_INTERFACE
        for exporter in exporters:
            exporter.export()
        for name in names:
            attachments.numbers.mark_gone(name)
        clock.pass_by()
        for _ in range(2):
            for exporter in exporters:
                exporter.export()
    for exporter in exporters:
        exporter.export()
    assert attachments.names == {0: ""}
    assert attachments.numbers.used <= 4 * 250
    assert (attachments.roles, attachments.state()) == ({}, {})


def test_an_interface_without_a_number_gets_one_later(
    host: Namespace, collector: EppingCollector, clock: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    attachments, reader = collector.attachments, collector.reader()
    for each in range(INTERFACES):
        attachments.register(Interface(f"i{each}", 2000 + each % 3, 14))
    follower = InterfaceMonitor(attachments, Selection(["late*"]))
    follower.begin()
    try:
        host.ip("link add late type veth peer name other", "address add 10.8.0.1/24 dev late")
        host.ip("link set other up", "link set late up")
        follower.follow()
        assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"][1:] == [
            "late is counted without its name, because 1024 other interfaces have counts: the name is used after the "
            "counts of a removed interface are delivered"
        ]
        send("late", 3)
        assert udp(reader.read(), "") == 3
        attachments.numbers.mark_gone("i7")
        clock.pass_by()
        for _ in range(2):
            reader.read()
        assert caplog.records[-1].getMessage() == "late is counted under its name from now on"
        send("late", 4)
        reading = reader.read()
        assert (udp(reading, ""), udp(reading, "late")) == (3, 4)
        assert len(reading.names) == INTERFACES + 1
    finally:
        follower.close()


def udp(reading: Reading, name: str) -> int:
    """Return the number of UDP packets that were sent out of an interface."""
    record = reading.interfaces[list(reading.names.values()).index(name)]
    return int(record["transmitted"]["packets"][1])


def test_the_number_is_freed_if_attaching_fails(collector: EppingCollector, clock: Time) -> None:
    reader = collector.reader()
    for each in range(3):
        with pytest.raises(EppingError, match="cannot attach to"):
            collector.attachments.attach_interface(Interface(f"none{each}", 1_000_000, 14), Role.WAN)
    clock.pass_by()
    for _ in range(2):
        reader.read()
    assert collector.attachments.names == {0: ""}
