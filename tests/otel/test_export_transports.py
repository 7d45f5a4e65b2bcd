# SPDX-License-Identifier: Apache-2.0
"""Exports the same packets with every protocol, compression and temporality, to a collector of another project.

The agents watch the lab's router, and export to a collector. The collector forwards the requests to our `Sink`. So the
tests check whether another implementation of OTLP understands the agent's requests.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from otel_epping.kernel import buckets
from otel_epping.lab.collectors import collector
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import Lab
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.counters import INTERFACE_COUNTERS
from tests.support.arrivals import (
    CUMULATIVE,
    DELTA,
    INTERFACE_PACKETS,
    PACKETS,
    Arrived,
    arrived,
    check_same_tcp_packets,
    check_truth,
    settle,
)
from tests.support.lab_agent import Agent, eventually, figure, link_packets, quiet, talking
from tests.support.patience import PATIENCE_S

PROTOCOLS = ("grpc", "http/protobuf")
COMPRESSIONS = ("", "gzip")  # "" means that the variable is not set. The SDK's gRPC exporter rejects "none".
PREFERENCES = ("cumulative", "delta", "lowmemory")
TABLE = {metric.name: metric for metric in metric_table.METRICS}

# Counters that are asynchronous instruments of the SDK.
OBSERVED = {
    agent_metrics.EXPORT_FAILED,
    agent_metrics.EXPORT_REJECTED,
    agent_metrics.FLOW_EVICTED,
    agent_metrics.INTERFACE_EVENTS,
}


def check_histogram(point: Any) -> None:
    """Check that a histogram point is complete, and that its fields agree with each other."""
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
    """Return true if the point contradicts itself.

    A point contradicts itself if its minimum or maximum is missing, if the minimum is not in the first bucket, if the
    maximum is not in the last bucket, or if the mean is not between minimum and maximum.
    """
    if not point.HasField("min"):
        return True
    first, last = (buckets.index_of(round(value * 1e9), point.scale) for value in (point.min, point.max))
    offset = point.positive.offset
    middle = point.min <= point.sum / point.count * (1 + 1e-9) and point.sum / point.count <= point.max * (1 + 1e-9)
    return (first, last) != (offset, offset + len(point.positive.bucket_counts) - 1) or not middle


@dataclass
class Matrix:
    """The results of all agents of the matrix.

    `passed` is the number of packets that the kernel counted while the agents ran.
    """

    agents: dict[str, Arrived]
    exit_codes: dict[str, int]
    logs: dict[str, str]
    passed: int


def variant(protocol: str, compression: str, preference: str) -> str:
    return f"{protocol.partition('/')[0]}-{compression or 'plain'}-{preference}"


VARIANTS = [(p, c, t) for p in PROTOCOLS for c in COMPRESSIONS for t in PREFERENCES]


def fewest_exports(sink: Sink, agents: list[Agent]) -> int:
    """Count the intervals that the sink has received from each agent, and return the smallest count."""
    times: dict[str, set[int]] = {agent.name: set() for agent in agents}
    for point in sink.points(INTERFACE_PACKETS):
        times[str(point.resource["service.instance.id"])].add(point.point.time_unix_nano)
    return min(map(len, times.values()))


@pytest.fixture(scope="module")
def matrix(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    folder = tmp_path_factory.mktemp("matrix")
    with Sink(namespace=lab.router) as sink, collector(sink, namespace=lab.router) as forwarder, ExitStack() as undo:
        agents: list[Agent] = []
        for protocol, compression, preference in VARIANTS:
            agents.append(
                Agent(
                    lab,
                    folder,
                    variant(protocol, compression, preference),
                    forwarder.grpc_endpoint
                    if protocol == "grpc"
                    else forwarder.http_endpoint.removesuffix("/v1/metrics"),
                    "1s",
                    OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
                    OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference,
                    **({"OTEL_EXPORTER_OTLP_COMPRESSION": compression} if compression else {}),
                )
            )
            undo.callback(agents[-1].kill)
            if len(agents) % 4 == 0:  # the agents compile in groups, so that at most four compilers run at once
                agents[-1].watching()
        for agent in agents:
            agent.watching()
        quiet(lab)
        passed = link_packets(lab.router)
        with talking(lab):
            eventually(lambda: fewest_exports(sink, agents) >= 3, PATIENCE_S, "agents export")
        passed = link_packets(lab.router) - passed
        for agent in agents:
            agent.process.terminate()
        exit_codes = {agent.name: agent.process.wait(PATIENCE_S) for agent in agents}
        settle(sink)
        yield Matrix(
            {agent.name: arrived(sink, agent.name) for agent in agents},
            exit_codes,
            {agent.name: agent.log for agent in agents},
            passed,
        )


@pytest.fixture(params=VARIANTS, ids=lambda one: variant(*one))
def one(request: pytest.FixtureRequest, matrix: Matrix) -> tuple[str, Arrived]:
    """The temporality preference of one agent of the matrix, and the points that this agent has exported."""
    name = variant(*request.param)
    assert matrix.exit_codes[name] == 0, matrix.logs[name]
    assert "export failed" not in matrix.logs[name]
    return request.param[2], matrix.agents[name]


def test_every_variant_delivers_all_metrics_that_have_data(one: tuple[str, Arrived]) -> None:
    _, agent = one
    always = {metric_table.RTT, metric_table.SUBNET_PACKETS, agent_metrics.SUBNET_USAGE, agent_metrics.SUBNET_LIMIT}
    always |= {
        agent_metrics.READ_DURATION,
        agent_metrics.EXPORT_DURATION,
        agent_metrics.EXPORT_FAILED,
        agent_metrics.EXPORT_REJECTED,
    }
    always |= {
        metric_table.INTERFACE_ATTACHED,
        agent_metrics.INTERFACE_EVENTS,
        agent_metrics.FLOW_EVICTED,
        agent_metrics.MEMORY_USAGE,
    }
    always |= {c.metric for c in INTERFACE_COUNTERS if "packets" in c.field or c.field in ("ecn", "rtt_begun")}
    assert {metric.name for metric in always} <= set(agent.metrics) <= set(TABLE)


# The agent has no file of names and no database.
ABSENT = {*metric_table.NETWORK_KEYS} - {semconv.SUBNET, semconv.NETWORK_TYPE}


def test_metrics_are_those_of_the_table(one: tuple[str, Arrived]) -> None:
    _, agent = one
    for name, metric in agent.metrics.items():
        row = TABLE[name]
        assert (metric.unit, metric.description) == (row.unit, row.description)
        kind = {"counter": "sum", "updowncounter": "sum", "gauge": "gauge"}.get(row.kind, "exponential_histogram")
        assert metric.WhichOneof("data") == kind
        if kind == "sum":
            assert metric.sum.is_monotonic == (row.kind == "counter")
        for point in agent.points[name]:
            is_aggregate = semconv.UNANSWERED in point.attributes and name != metric_table.RTT.name
            keys = {semconv.UNANSWERED} if is_aggregate and semconv.SUBNET in row.keys else set(row.keys) - ABSENT
            assert set(point.attributes) == keys, name


def test_temporality_is_the_preferred_one(one: tuple[str, Arrived]) -> None:
    preference, agent = one
    for name, points in agent.points.items():
        expected = CUMULATIVE if preference == "cumulative" else DELTA
        if TABLE[name].kind == "updowncounter":
            expected = CUMULATIVE
        elif TABLE[name].kind == "gauge":
            expected = 0
        elif TABLE[name] in OBSERVED and preference == "lowmemory":
            expected = CUMULATIVE  # In the specification, "lowmemory" makes asynchronous counters cumulative.
        assert {point.temporality for point in points} == {expected}, name


def test_integers_are_integers(one: tuple[str, Arrived]) -> None:
    _, agent = one
    for name, points in agent.points.items():
        if TABLE[name].kind in ("counter", "updowncounter"):
            assert {point.point.WhichOneof("value") for point in points} == {"as_int"}, name


def test_histograms_are_complete(one: tuple[str, Arrived]) -> None:
    _, agent = one
    points = agent.points[metric_table.RTT.name]
    assert points
    for point in points:
        check_histogram(point.point)


def test_minimum_and_maximum_are_in_the_outermost_buckets(one: tuple[str, Arrived]) -> None:
    """The minimum of each point is in the first non-empty bucket, and the maximum is in the last non-empty bucket. The
    test sends traffic even while the agent reads the counts."""
    preference, agent = one
    points = [point.point for point in agent.points[metric_table.RTT.name]]
    if preference == "cumulative":
        for series in agent.series(metric_table.RTT.name).values():
            assert not contradicts(series[-1].point)
    wrong = sum(contradicts(point) for point in points)
    figure("points whose min, max or sum contradict their buckets", f"{wrong} of {len(points)} ({preference})")
    assert not wrong


def test_start_times_are_constant_or_contiguous(one: tuple[str, Arrived]) -> None:
    preference, agent = one
    longest = 0
    for name in (metric_table.RTT.name, PACKETS, INTERFACE_PACKETS):
        for series in agent.series(name).values():
            starts = [point.point.start_time_unix_nano for point in series]
            times = [point.point.time_unix_nano for point in series]
            assert all(start < end for start, end in zip(starts, times, strict=True))
            assert len(set(times)) == len(times)
            longest = max(longest, len(series))
            if preference == "cumulative":
                assert len(set(starts)) == 1, name
            else:
                # The agent exports no point of a series for an interval without counts. The next point of the series
                # starts at the end of the last interval without counts.
                assert all(previous <= start for previous, start in zip(times, starts[1:], strict=False))
    assert longest >= 3
    if preference != "cumulative":
        busy = [
            s for s in agent.series(INTERFACE_PACKETS).values() if dict(s[0].attributes)[semconv.PACKET_KIND] == "tcp"
        ]
        for series in busy:
            pairs = pairwise(point.point for point in series)
            assert all(one.time_unix_nano == next_one.start_time_unix_nano for one, next_one in pairs)


def test_rtts_are_those_of_the_lab(one: tuple[str, Arrived], lab: Lab) -> None:
    _, agent = one
    found = {
        dict(series)[semconv.SUBNET]: points
        for series, points in agent.series(metric_table.RTT.name).items()
        if dict(series)[semconv.SIDE] == "external"
    }
    for network in lab.networks:
        points = found[str(network.subnet)]
        assert min(point.point.min for point in points if point.point.HasField("min")) >= network.delay_ns / 1e9
        assert points[-1].attributes[semconv.NETWORK_TYPE] == f"ipv{network.subnet.version}"


def test_the_resource_has_our_attributes_and_those_of_the_variables(one: tuple[str, Arrived]) -> None:
    _, agent = one
    resource = agent.points[PACKETS][0].resource
    assert resource["service.name"] == "otel-epping"
    assert resource["deployment.environment.name"] == "lab"
    assert resource["host.name"] == socket.gethostname()
    assert resource["telemetry.sdk.language"] == "python"
    assert "service.version" in resource


def test_each_packet_counts_for_two_subnets(one: tuple[str, Arrived]) -> None:
    check_truth(one[1])


def test_totals_equal_the_kernels_own_statistics(one: tuple[str, Arrived], matrix: Matrix) -> None:
    """The packet counts of the agent equal the packet counts of the kernel, because TAP devices have no offloads.

    Without offloads, the kernel and the agent count each packet on the wire, including ARP packets. If the counts are
    equal, no packet is missing or counted twice.
    """
    # The agent may have counted packets of neighbour discovery before the test first read the kernel's count.
    extra = one[1].interface_packets() - matrix.passed
    assert 0 <= extra <= 30, "the agent may count more only because of neighbour discovery at its start"
    assert matrix.passed > 1000


def test_all_variants_have_the_same_totals(matrix: Matrix) -> None:
    agents = list(matrix.agents.values())
    assert all(len(agent.tcp_packets) > 20 for agent in agents)
    check_same_tcp_packets(agents)
    rtts = [agent.rtts for agent in matrix.agents.values()]
    figure("RTTs that each of the agents counted", rtts)
    # Each agent takes its own RTT samples: at most one per flow and direction in 100 ms. So the agents have only
    # approximately equal numbers of RTTs.
    assert min(rtts) > 0.95 * max(rtts) > 100
