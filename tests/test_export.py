# SPDX-License-Identifier: Apache-2.0
"""The whole way, live: packets in network namespaces, the agent as a process, a collector that is not ours.

The agent watches the lab's router and exports to rotel, which forwards to our `Sink`; so what counts here is what
another implementation of OTLP understood. Where headers or sizes of requests matter, the agent exports to the sink
itself. Every agent has a name (`service.instance.id`), by which one sink tells many apart: they watch the same packets
at the same time, so they must also agree with each other, to the packet.
"""

import json
import os
import re
import signal
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from otel_epping import telemetry
from otel_epping.kernel import buckets, libbpf
from otel_epping.lab import traffic
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.rotel import Rotel
from otel_epping.lab.sink import Point, Sink
from otel_epping.lab.topology import WAN_INTERFACE, Lab

T = TypeVar("T")

DELTA, CUMULATIVE = 1, 2
PROTOCOLS = ("grpc", "http/protobuf")
COMPRESSIONS = ("", "gzip")  # the SDK's gRPC exporter knows no "none": it fails, and so leaves the variable out
PREFERENCES = ("cumulative", "delta", "lowmemory")
PACKETS = telemetry.SUBNET_COUNTERS[0].name
INTERFACE_PACKETS = "epping.interface.packet.count"
NOT_IP = ("non_ip", "malformed")
TABLE = {metric.name: metric for metric in telemetry.METRICS}

START_S = 30.0
STOP_S = 30.0
MOST_RSS_KB = 80 * 1024
MOST_REQUEST_BYTES = int(2.5 * 2**20)
# One request to a collector that isn't there takes an exporter about 7 s; there may be a second one.
MOST_SHUTDOWN_S = 20.0


def figure(name: str, value: object) -> None:
    """Says what was measured; `pytest -s` shows it."""
    print(f"\n[measured] {name}: {value}")


def eventually(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Waits until the condition is true."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
    return value


class Agent:
    """`otel-epping run` on the router's interface. `log` is what it printed so far, standard output apart."""

    def __init__(self, lab: Lab, folder: Path, name: str, endpoint: str, interval: str, **variables: str) -> None:
        self.name = name
        self._log, self._out = folder / f"{name}.log", folder / f"{name}.out"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")} | {
            "OTEL_RESOURCE_ATTRIBUTES": f"service.instance.id={name},deployment.environment.name=lab",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            **variables,
        }
        command = [sys.executable, "-m", "otel_epping", "run", "-i", WAN_INTERFACE, "--interval", interval]
        with self._log.open("w") as log, self._out.open("w") as out:
            self.process = lab.router.popen(command, env=environment, stderr=log, stdout=out)

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def out(self) -> str:
        return self._out.read_text()

    def watching(self) -> "Agent":
        """Waits until it counts."""

        def watches() -> bool:
            assert self.process.poll() is None, self.log
            return "watching" in self.log

        eventually(watches, START_S, f"{self.name} watches; it says: {self.log}")
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ends it by a signal and returns its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def rss_kb(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])


@contextmanager
def talking(lab: Lab) -> Iterator[None]:
    """Real TCP connections while the body runs; afterwards nothing is on the wire any more."""
    clients = [lab.talk(lab.client), lab.talk(lab.legacy, addresses=lab.addresses[::3])]
    yield
    for client in clients:
        assert not traffic.finish(client).errors
    quiet(lab)


def link_packets(namespace: Namespace) -> int:
    """Packets that an interface received and transmitted, by the kernel's own account."""
    statistics = json.loads(namespace.run("ip", "-s", "-j", "link", "show", WAN_INTERFACE))[0]["stats64"]
    return int(statistics["rx"]["packets"]) + int(statistics["tx"]["packets"])


def quiet(lab: Lab) -> None:
    """Waits until no packet has passed for longer than the longest delay of the lab."""
    before, since = link_packets(lab.router), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if (now := link_packets(lab.router)) != before:
            before, since = now, time.monotonic()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        lab.serve()
        yield lab


@pytest.fixture
def agents(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts agents: (name, endpoint, interval, **variables). None outlives its test."""
    started: list[Agent] = []

    def start(name: str, endpoint: str, interval: str, **variables: str) -> Agent:
        started.append(Agent(lab, tmp_path, name, endpoint, interval, **variables))
        return started[-1]

    yield start
    for agent in started:
        agent.kill()


# ---- what a sink has of one agent


@dataclass
class Arrived:
    """All points of one agent, by metric, in the order of arrival."""

    metrics: dict[str, Metric]
    points: dict[str, list[Point]]

    def series(self, name: str) -> dict[tuple[tuple[str, Any], ...], list[Point]]:
        """Points of each series of a metric, in the order of time."""
        found: dict[tuple[tuple[str, Any], ...], list[Point]] = {}
        for point in sorted(self.points.get(name, []), key=lambda point: point.point.time_unix_nano):
            found.setdefault(tuple(sorted(point.attributes.items())), []).append(point)
        return found

    def totals(self, name: str, value: Callable[[Any], int] = lambda point: int(point.as_int)) -> Counter[Any]:
        """What each series amounts to in the end: the sum of delta points, the last of cumulative ones."""
        return Counter(
            {
                series: sum(value(point.point) for point in points)
                if points[0].temporality == DELTA
                else value(points[-1].point)
                for series, points in self.series(name).items()
            }
        )

    def packets(self, direction: str) -> int:
        """Packets from or to all subnets."""
        wanted = (telemetry.SUBNET_DIRECTION, direction)
        return sum(count for series, count in self.totals(PACKETS).items() if wanted in series)

    def interface_packets(self, without: tuple[str, ...] = ()) -> int:
        return sum(
            count
            for series, count in self.totals(INTERFACE_PACKETS).items()
            if dict(series)[telemetry.PACKET_KIND] not in without
        )

    @property
    def rtts(self) -> int:
        return sum(self.totals(telemetry.RTT.name, lambda point: int(point.count)).values())


def arrived(sink: Sink, name: str) -> Arrived:
    metrics: dict[str, Metric] = {}
    points: dict[str, list[Point]] = {}
    for resource, metric in sink.metrics():
        if resource.get("service.instance.id") == name:
            metrics[metric.name] = metric
    for metric_name in metrics:
        points[metric_name] = [p for p in sink.points(metric_name) if p.resource["service.instance.id"] == name]
    return Arrived(metrics, points)


def settle(sink: Sink) -> None:
    """Waits until rotel has forwarded all it has."""
    count, since = len(sink.received), time.monotonic()
    while time.monotonic() - since < 0.6:
        time.sleep(0.05)
        if len(sink.received) != count:
            count, since = len(sink.received), time.monotonic()


def check_truth(one: Arrived) -> None:
    """Each IP packet counts once from and once to a subnet."""
    assert one.packets("from") == one.packets("to") == one.interface_packets(without=NOT_IP) > 0


def check_histogram(point: Any) -> None:
    """A point is whole, and in itself without contradiction."""
    counts = list(point.positive.bucket_counts)
    assert point.count == sum(counts) > 0
    assert point.zero_count == 0
    assert not point.negative.bucket_counts
    assert counts[0]
    assert counts[-1]
    assert len(counts) <= 160
    assert point.HasField("sum")
    assert point.start_time_unix_nano < point.time_unix_nano
    if point.HasField("min"):
        assert point.HasField("max")
        assert 1e-6 <= point.min <= point.max <= 64


def contradicts(point: Any) -> bool:
    """Whether least or greatest are missing, or not in the first and last bucket, or the mean is not between them."""
    if not point.HasField("min"):
        return True
    first, last = (buckets.index_of(round(value * 1e9), point.scale) for value in (point.min, point.max))
    offset = point.positive.offset
    middle = point.min <= point.sum / point.count * (1 + 1e-9) and point.sum / point.count <= point.max * (1 + 1e-9)
    return (first, last) != (offset, offset + len(point.positive.bucket_counts) - 1) or not middle


# ---- the matrix: every protocol, compression and temporality, all on the same packets


@dataclass
class Matrix:
    """What came of the agents of the matrix; `passed` is how many packets passed meanwhile, as the kernel says."""

    agents: dict[str, Arrived]
    exit_codes: dict[str, int]
    logs: dict[str, str]
    passed: int


def variant(protocol: str, compression: str, preference: str) -> str:
    return f"{protocol.partition('/')[0]}-{compression or 'plain'}-{preference}"


VARIANTS = [(p, c, t) for p in PROTOCOLS for c in COMPRESSIONS for t in PREFERENCES]


@pytest.fixture(scope="module")
def matrix(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    folder = tmp_path_factory.mktemp("matrix")
    with Sink(namespace=lab.router) as sink, Rotel(sink, namespace=lab.router) as rotel, ExitStack() as undo:
        agents: list[Agent] = []
        for protocol, compression, preference in VARIANTS:
            agents.append(
                Agent(
                    lab,
                    folder,
                    variant(protocol, compression, preference),
                    rotel.grpc_endpoint if protocol == "grpc" else rotel.http_endpoint.removesuffix("/v1/metrics"),
                    "1s",
                    OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference,
                    **({"OTEL_EXPORTER_OTLP_COMPRESSION": compression} if compression else {}),
                )
            )
            undo.callback(agents[-1].kill)
            if len(agents) % 4 == 0:  # as many compilers at once as make sense
                agents[-1].watching()
        for agent in agents:
            agent.watching()
        quiet(lab)
        passed = link_packets(lab.router)
        with talking(lab):
            time.sleep(3.5)
        passed = link_packets(lab.router) - passed
        for agent in agents:
            agent.process.terminate()
        exit_codes = {agent.name: agent.process.wait(STOP_S) for agent in agents}
        settle(sink)
        yield Matrix(
            {agent.name: arrived(sink, agent.name) for agent in agents},
            exit_codes,
            {agent.name: agent.log for agent in agents},
            passed,
        )


@pytest.fixture(params=VARIANTS, ids=lambda one: variant(*one))
def one(request: pytest.FixtureRequest, matrix: Matrix) -> tuple[str, Arrived]:
    """An agent of the matrix: its preference of temporality, and what arrived."""
    name = variant(*request.param)
    assert matrix.exit_codes[name] == 0, matrix.logs[name]
    assert "export failed" not in matrix.logs[name]
    return request.param[2], matrix.agents[name]


def test_every_variant_delivers_all_metrics_that_have_data(one: tuple[str, Arrived]) -> None:
    _, agent = one
    always = {telemetry.RTT, *telemetry.SUBNET_COUNTERS, telemetry.SUBNET_USAGE, telemetry.SUBNET_LIMIT}
    always |= {telemetry.READ_DURATION, telemetry.EXPORT_FAILED}
    always |= {
        c.metric for c in telemetry.INTERFACE_COUNTERS if "packets" in c.field or c.field in ("ecn", "rtt_begun")
    }
    assert {metric.name for metric in always} <= set(agent.metrics) <= set(TABLE)


def test_names_units_kinds_and_attributes_are_those_of_the_table(one: tuple[str, Arrived]) -> None:
    _, agent = one
    for name, metric in agent.metrics.items():
        row = TABLE[name]
        assert (metric.unit, metric.description) == (row.unit, row.description)
        kind = {"counter": "sum", "updowncounter": "sum", "gauge": "gauge"}.get(row.kind, "exponential_histogram")
        assert metric.WhichOneof("data") == kind
        if kind == "sum":
            assert metric.sum.is_monotonic == (row.kind == "counter")
        for point in agent.points[name]:
            assert set(point.attributes) == set(row.keys), name


def test_temporality_is_the_preferred_one(one: tuple[str, Arrived]) -> None:
    preference, agent = one
    for name, points in agent.points.items():
        expected = CUMULATIVE if preference == "cumulative" else DELTA
        if TABLE[name].kind == "updowncounter":
            expected = CUMULATIVE
        elif TABLE[name].kind == "gauge":
            expected = 0
        elif name == telemetry.EXPORT_FAILED.name and preference == "lowmemory":
            expected = CUMULATIVE  # an observable counter: the specification's "lowmemory"
        assert {point.temporality for point in points} == {expected}, name


def test_integers_are_integers(one: tuple[str, Arrived]) -> None:
    _, agent = one
    for name, points in agent.points.items():
        if TABLE[name].kind in ("counter", "updowncounter"):
            assert {point.point.WhichOneof("value") for point in points} == {"as_int"}, name


def test_histograms_are_whole(one: tuple[str, Arrived]) -> None:
    _, agent = one
    points = agent.points[telemetry.RTT.name]
    assert points
    for point in points:
        check_histogram(point.point)


def test_least_and_greatest_are_in_the_outermost_buckets(one: tuple[str, Arrived]) -> None:
    """In the end, when nothing is being counted any more; before, an RTT counted while it is read may be split."""
    preference, agent = one
    points = [point.point for point in agent.points[telemetry.RTT.name]]
    if preference == "cumulative":
        for series in agent.series(telemetry.RTT.name).values():
            assert not contradicts(series[-1].point)
    wrong = sum(contradicts(point) for point in points)
    figure("points whose min, max or sum contradict their buckets", f"{wrong} of {len(points)} ({preference})")
    assert wrong <= 0.02 * len(points)


def test_start_times_are_constant_or_contiguous(one: tuple[str, Arrived]) -> None:
    preference, agent = one
    longest = 0
    for name in (telemetry.RTT.name, PACKETS, INTERFACE_PACKETS):
        for series in agent.series(name).values():
            starts = [point.point.start_time_unix_nano for point in series]
            times = [point.point.time_unix_nano for point in series]
            assert all(start < end for start, end in zip(starts, times, strict=True))
            assert len(set(times)) == len(times)
            longest = max(longest, len(series))
            if preference == "cumulative":
                assert len(set(starts)) == 1, name
            else:
                # A series that had nothing to tell for a while begins anew where its last empty interval ended.
                assert all(previous <= start for previous, start in zip(times, starts[1:], strict=False))
    assert longest >= 3
    if preference != "cumulative":
        busy = [
            s for s in agent.series(INTERFACE_PACKETS).values() if dict(s[0].attributes)[telemetry.PACKET_KIND] == "tcp"
        ]
        for series in busy:
            pairs = pairwise(point.point for point in series)
            assert all(one.time_unix_nano == next_one.start_time_unix_nano for one, next_one in pairs)


def test_rtts_are_those_of_the_lab(one: tuple[str, Arrived], lab: Lab) -> None:
    _, agent = one
    found = {
        dict(series)[telemetry.SUBNET]: points
        for series, points in agent.series(telemetry.RTT.name).items()
        if dict(series)[telemetry.SIDE] == "external"
    }
    for network in lab.networks:
        points = found[str(network.subnet)]
        assert min(point.point.min for point in points if point.point.HasField("min")) >= network.delay_ns / 1e9
        assert points[-1].attributes[telemetry.NETWORK_TYPE] == f"ipv{network.subnet.version}"


def test_resource_is_ours_and_what_the_variables_say(one: tuple[str, Arrived]) -> None:
    _, agent = one
    resource = agent.points[PACKETS][0].resource
    assert resource["service.name"] == "otel-epping"
    assert resource["deployment.environment.name"] == "lab"
    assert resource["host.name"] == socket.gethostname()
    assert resource["telemetry.sdk.language"] == "python"
    assert "service.version" in resource


def test_each_packet_counts_for_two_subnets(one: tuple[str, Arrived]) -> None:
    check_truth(one[1])


def test_totals_are_those_of_the_kernels_own_statistics(one: tuple[str, Arrived], matrix: Matrix) -> None:
    """TAP devices have no offloads, so the kernel counts there what was on the wire; so do we, of aggregates too.

    ARP and such are packets for both. Nothing may be left out, nor counted twice: the difference is 0.
    """
    # Before the count of `passed` began, the agent saw what was left of its own start: neighbour discovery, at most.
    extra = one[1].interface_packets() - matrix.passed
    assert 0 <= extra <= 30, "neighbour discovery while agents start is all that may be more"
    assert matrix.passed > 1000


def test_all_variants_agree_to_the_packet(matrix: Matrix) -> None:
    tcp = {
        name: Counter(
            {s: n for s, n in agent.totals(PACKETS).items() if str(dict(s)[telemetry.TRAFFIC_CLASS])[:3] == "tcp"}
        )
        for name, agent in matrix.agents.items()
    }
    first = tcp.popitem()[1]
    assert len(first) > 20
    assert all(other == first for other in tcp.values())
    rtts = [agent.rtts for agent in matrix.agents.values()]
    figure("RTTs that each of the agents counted", rtts)
    # Each draws its own samples, at most one in 100 ms a flow and direction, so these agree only about.
    assert min(rtts) > 0.95 * max(rtts) > 100


# ---- ends


def test_the_last_interval_is_flushed_on_each_signal_and_headers_and_names_are_honoured(
    lab: Lab, agents: Callable[..., Agent]
) -> None:
    """Nothing is due within the minute: what arrives, arrives because of the signal."""
    with Sink(namespace=lab.router) as sink:
        variables = {
            "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=lab%201,authorization=Bearer t",
            "OTEL_SERVICE_NAME": "mine",
        }
        http = sink.http_endpoint.removesuffix("/v1/metrics")
        term = agents("term", sink.grpc_endpoint, "60s", **variables).watching()
        sigint = agents("int", http, "60s", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf", **variables).watching()
        quiet(lab)
        before = link_packets(lab.router)
        with talking(lab):
            time.sleep(1)
        passed = link_packets(lab.router) - before
        assert not sink.received
        assert (term.stop(signal.SIGTERM), sigint.stop(signal.SIGINT)) == (0, 0), term.log + sigint.log
        for agent in (term, sigint):
            one = arrived(sink, agent.name)
            check_truth(one)
            # The first interface neighbours it talks to may need discovery before `before`.
            assert 0 <= one.interface_packets() - passed <= 30
            assert one.rtts > 50
            assert {p.resource["service.name"] for p in one.points[PACKETS]} == {"mine"}
            assert "service.version" not in one.points[PACKETS][0].resource
        for received in sink.received:
            assert received.headers["x-tenant"] == "lab 1"
            assert received.headers["authorization"] == "Bearer t"
        assert {received.protocol for received in sink.received} == {"grpc", "http"}


def attached(lab: Lab) -> list[int]:
    """Programs on the two hooks of the router's interface."""
    with lab.router.entered():
        ifindex = socket.if_nametoindex(WAN_INTERFACE)
        hooks = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
        return [libbpf.attached_count(ifindex, hook) for hook in hooks]


def processes(lab: Lab) -> list[str]:
    """Command lines of agents in the router's namespace."""
    with lab.router.entered():
        inode = Path("/proc/thread-self/ns/net").stat().st_ino
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            if (entry / "ns/net").stat().st_ino == inode and re.search(r"otel_epping run|loader_child", command):
                found.append(command)
        except OSError:
            continue
    return found


def test_kill_9_leaves_nothing_behind(lab: Lab, agents: Callable[..., Agent]) -> None:
    assert attached(lab) == [0, 0]
    with Sink(namespace=lab.router) as sink:
        agent = agents("killed", sink.grpc_endpoint, "60s").watching()
        assert attached(lab) == [1, 1]
        assert len(processes(lab)) == 1
        agent.process.kill()
        assert agent.process.wait(STOP_S) == -signal.SIGKILL
        eventually(lambda: attached(lab) == [0, 0], 5, "the kernel detached the program")
        assert processes(lab) == []


def test_shutdown_with_a_dead_collector_is_bounded_and_says_what_is_lost(
    lab: Lab, agents: Callable[..., Agent]
) -> None:
    """Also: an exporter that works (console) beside one that fails is complete, and the log tells it once."""
    dead = "http://127.0.0.1:9"  # the port of `discard`, where nobody listens
    grpc = agents("dead-grpc", dead, "60s", OTEL_METRICS_EXPORTER="otlp,console")
    http = agents("dead-http", dead, "60s", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    for agent in (grpc, http):
        agent.watching()
    with talking(lab):
        time.sleep(1)
    began = time.monotonic()
    for agent in (grpc, http):
        agent.process.terminate()
    took: dict[str, float] = {}
    while len(took) < 2 and time.monotonic() - began < MOST_SHUTDOWN_S + 5:
        for agent in (grpc, http):
            if agent.process.poll() is not None and agent.name not in took:
                took[agent.name] = round(time.monotonic() - began, 1)
        time.sleep(0.05)
    figure("seconds from SIGTERM to the end with a dead collector", took)
    assert set(took) == {"dead-grpc", "dead-http"}
    assert max(took.values()) < MOST_SHUTDOWN_S
    for agent in (grpc, http):
        assert agent.process.returncode == 1, agent.log
        assert "Traceback" not in agent.log
        assert agent.log.count("export failed, counts are kept") == 1
        assert agent.log.splitlines()[-1].startswith("otel-epping: the last interval was not delivered")
    assert "get through again" not in grpc.log
    (printed,) = json_documents(grpc.out)
    metrics = {
        metric["name"]: metric
        for resource in printed["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert set(metrics) >= {telemetry.RTT.name, PACKETS, INTERFACE_PACKETS, telemetry.READ_DURATION.name}
    sides: Counter[str] = Counter()
    for point in metrics[PACKETS]["data"]["data_points"]:
        sides[point["attributes"][telemetry.SUBNET_DIRECTION]] += point["value"]
    assert sides["from"] == sides["to"] > 500


def json_documents(text: str) -> list[Any]:
    """Several JSON documents, one after the other."""
    documents, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    return documents


# ---- an outage


def in_a_pause(sink: Sink, interval_s: float) -> None:
    """Returns when rotel has passed on everything and nothing is due for a while, so that killing it loses nothing."""
    count = len(sink.received)
    eventually(lambda: len(sink.received) > count, 3 * interval_s, "an export")
    time.sleep(0.35 * interval_s)


def test_nothing_is_lost_while_the_collector_is_away(lab: Lab, agents: Callable[..., Agent]) -> None:
    """Refused connections are clean failures, so delta sums are exact; were an answer lost, delta would tell twice."""
    interval_s = 1.0
    fast = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with (
        Sink(namespace=lab.router) as sink_c,
        Sink(namespace=lab.router) as sink_d,
    ):
        sinks = {"cumulative": sink_c, "delta": sink_d}
        rotels = {name: Rotel(sink, namespace=lab.router) for name, sink in sinks.items()}
        for rotel in rotels.values():
            rotel.__enter__()
        try:
            started = {
                name: agents(
                    f"away-{name}",
                    rotels[name].grpc_endpoint,
                    f"{interval_s}s",
                    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=name,
                    **fast,
                )
                for name in sinks
            }
            for agent in started.values():
                agent.watching()
            with talking(lab):
                for name, rotel in rotels.items():
                    in_a_pause(sinks[name], interval_s)
                    rotel.__exit__()
                for agent in started.values():
                    eventually(lambda a=agent: "export failed" in a.log, 15, "the log says so")  # type: ignore[misc]
                time.sleep(3 * interval_s)
                before = {name: len(sink.received) for name, sink in sinks.items()}
                for rotel in rotels.values():
                    rotel.__enter__()
                for name, agent in started.items():
                    eventually(lambda a=agent: "get through again" in a.log, 30, "the log says so")  # type: ignore[misc]
                    assert before[name] > 0
            for agent in started.values():
                assert agent.stop() == 0, agent.log
            for sink in sinks.values():
                settle(sink)
        finally:
            for rotel in rotels.values():
                rotel.__exit__()
    ends = {name: arrived(sink, f"away-{name}") for name, sink in sinks.items()}
    for name, one in ends.items():
        log = started[name].log
        assert log.count("export failed") == 1, log
        assert log.count("get through again") == 1, log
        failures = re.search(r"after (\d+) that failed", log)
        assert failures
        assert int(failures[1]) >= 2
        check_truth(one)
    tcp = [
        Counter({s: n for s, n in one.totals(PACKETS).items() if str(dict(s)[telemetry.TRAFFIC_CLASS])[:3] == "tcp"})
        for one in ends.values()
    ]
    assert tcp[0] == tcp[1]
    for one in ends.values():
        for series in one.series(telemetry.RTT.name).values():
            times = [(point.point.start_time_unix_nano, point.point.time_unix_nano) for point in series]
            if series[0].temporality == DELTA:
                assert all(end <= start for (_, end), (start, _) in pairwise(times))
            else:
                counts = [point.point.count for point in series]
                assert counts == sorted(counts)


# ---- many subnets


def frame(source: str, destination: str, ports: tuple[int, int], tsval: int, tsecr: int) -> bytes:
    """An Ethernet frame with a TCP segment: timestamps, and four bytes of data."""
    tcp = struct.pack("!HHIIBBHHH", *ports, tsval, tsecr, 8 << 4, 0x18, 1024, 0, 0)
    tcp += struct.pack("!BBBBII", 1, 1, 8, 10, tsval, tsecr) + b"data"
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0)
    ip += socket.inet_aton(source) + socket.inet_aton(destination)
    return bytes(12) + b"\x08\x00" + ip + tcp


class Crowd:
    """Flows between pairs of subnets, `pairs` of them, on both ends of the lab's link: real packets, made up hosts."""

    def __init__(self, lab: Lab, pairs: int) -> None:
        self._ends = []
        for namespace, name in ((lab.router, WAN_INTERFACE), (lab.servers, "uplink0")):
            with namespace.entered():
                end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
                end.bind((name, 0))
            self._ends.append(end)
        self._pairs = [(f"11.{i >> 8}.{i & 255}.1", f"12.{i >> 8}.{i & 255}.1") for i in range(pairs)]
        self._round = 0

    def speak(self) -> None:
        """Each inner host sends a segment and each outer one answers: RTTs for both subnets from the third round on."""
        self._round += 1
        now = self._round
        inner, outer = self._ends
        for start in range(0, len(self._pairs), 250):
            part = self._pairs[start : start + 250]
            for ours, theirs in part:
                inner.send(frame(ours, theirs, (40_000, 443), now, now - 1))
            time.sleep(0.03)  # the link is a process in user space
            for ours, theirs in part:
                outer.send(frame(theirs, ours, (443, 40_000), now, now))
            time.sleep(0.03)

    def close(self) -> None:
        for end in self._ends:
            end.close()


@pytest.fixture
def crowd_of(lab: Lab) -> Iterator[Callable[[int], Crowd]]:
    crowds: list[Crowd] = []

    def make(pairs: int) -> Crowd:
        crowds.append(Crowd(lab, pairs))
        return crowds[-1]

    yield make
    for crowd in crowds:
        crowd.close()


def subnets(one: Arrived, name: str) -> set[Any]:
    return {dict(series)[telemetry.SUBNET] for series in one.series(name)}


def test_resident_memory_with_a_thousand_subnets(
    lab: Lab, agents: Callable[..., Agent], crowd_of: Callable[[int], Crowd]
) -> None:
    with Sink(namespace=lab.router) as sink, Rotel(sink, namespace=lab.router) as rotel:
        agent = agents("memory", rotel.grpc_endpoint, "1s").watching()
        idle_kb = agent.rss_kb
        crowd = crowd_of(500)
        for _ in range(8):
            crowd.speak()
            time.sleep(0.5)
        exports = len(sink.received)
        rss_kb = agent.rss_kb
        figure("resident memory, idle and with 1000 subnets", f"{idle_kb} kB, {rss_kb} kB after {exports} exports")
        assert agent.stop() == 0, agent.log
        settle(sink)
        assert exports >= 4
        assert len(subnets(arrived(sink, "memory"), telemetry.RTT.name)) >= 1000
        assert rss_kb <= MOST_RSS_KB


def test_requests_stay_small_with_twelve_thousand_subnets(
    lab: Lab, agents: Callable[..., Agent], crowd_of: Callable[[int], Crowd]
) -> None:
    """To rotel with its default limit of 4 MiB; and to the sink, which sees how large each request was."""
    with (
        Sink(namespace=lab.router) as sink,
        Sink(namespace=lab.router) as behind,
        Rotel(behind, namespace=lab.router) as rotel,
    ):
        direct = agents("direct", sink.grpc_endpoint, "60s", OTEL_EPPING_SAMPLE_INTERVAL="0").watching()
        through = agents("through", rotel.grpc_endpoint, "60s", OTEL_EPPING_SAMPLE_INTERVAL="0").watching()
        crowd = crowd_of(6000)
        for _ in range(3):
            crowd.speak()
        quiet(lab)
        assert (direct.stop(), through.stop()) == (0, 0), direct.log + through.log
        settle(behind)
        sizes = [received.size for received in sink.received]
        figure("requests for 12000 subnets, bytes", sizes)
        assert len(sizes) > 1
        assert max(sizes) <= MOST_REQUEST_BYTES
        for one in (arrived(sink, "direct"), arrived(behind, "through")):
            assert len(subnets(one, PACKETS)) >= 12_000
            assert len(subnets(one, telemetry.RTT.name)) >= 11_500
            check_truth(one)
            assert all(len(points) == 1 for points in one.series(PACKETS).values())
        assert "export failed" not in direct.log + through.log
