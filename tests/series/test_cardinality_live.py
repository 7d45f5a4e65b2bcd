# SPDX-License-Identifier: Apache-2.0
"""Runs an agent with limits on series. The totals include every packet, although slots are freed and series end."""

from collections.abc import Callable

from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import Lab
from otel_epping.otel import agent_metrics, semconv
from otel_epping.otel.metric import Metric
from tests.support.arrivals import NOT_IP, PACKETS, Arrived, arrived
from tests.support.lab_agent import Agent, eventually, figure, talking
from tests.support.patience import PATIENCE_S

MOST = 8


def latest(one: Arrived, metric: Metric) -> int:
    (points,) = one.series(metric.name).values()
    return int(points[-1].point.as_int)


def test_an_agent_with_all_limits_loses_no_counts(lab: Lab, agents: Callable[..., Agent]) -> None:
    bounds = {
        "OTEL_EPPING_IDLE_TIMEOUT": "2s",
        "OTEL_EPPING_MAX_SERIES": str(MOST),
        "OTEL_EPPING_ROLL_UP": "true",
        "OTEL_EPPING_MIN_SAMPLES": "2",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta",
    }
    with Sink(namespace=lab.router) as sink:
        agent = agents("bounded", sink.grpc_endpoint, "500ms", **bounds).watching()
        with talking(lab):
            eventually(lambda: arrived(sink, agent.name).rtts > 25, PATIENCE_S, "RTTs are exported")

        def retired() -> int:
            one = arrived(sink, agent.name)
            if not one.points.get(PACKETS):
                return 0
            (deltas,) = one.series(agent_metrics.SUBNET_RETIRED.name).values()
            return sum(int(each.point.as_int) for each in deltas)

        eventually(lambda: retired() > 5, 15, "slots are freed")
        # A freed slot is reused after a grace period and two readings. In this test, each request has the counts of one
        # reading.
        requests = len(sink.requests)
        eventually(lambda: len(sink.requests) >= requests + 4, PATIENCE_S, "the agent exports")
        before = arrived(sink, agent.name).rtts
        with talking(lab):
            eventually(lambda: arrived(sink, agent.name).rtts > before + 25, PATIENCE_S, "RTTs are exported")
        assert agent.stop() == 0, agent.log
        one = arrived(sink, agent.name)
        assert sum(one.totals(PACKETS).values()) == 2 * one.interface_packets(without=NOT_IP) > 0
        assert one.rtts > 50
        exported: dict[int, set[object]] = {}
        for point in one.points[PACKETS]:
            if subnet := point.attributes.get(semconv.SUBNET):
                exported.setdefault(point.point.time_unix_nano, set()).add((subnet, point.attributes[semconv.SIDE]))
        assert max(len(subnets) for subnets in exported.values()) <= MOST
        assert latest(one, agent_metrics.SERIES_LIMIT) == MOST
        figure("freed slots", retired())
