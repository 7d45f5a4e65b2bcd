# SPDX-License-Identifier: Apache-2.0
"""Tests exports from the agent to the official Collector and from there to Prometheus. The values after each step are
compared with the true values.

Two agents watch the same real connections. One agent exports cumulative counts, the default temporality, over HTTP. The
other agent exports deltas over gRPC, and the Collector adds up the deltas (`delta_to_cumulative`). All tests examine
the same run of the traffic.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from otel_epping.history.sources.kinds import read_sources
from otel_epping.lab.topology import DelayedNetwork, Lab
from otel_epping.otel import metric_table
from otel_epping.series import histogram
from tests.history.otlp_lines import content
from tests.integration import comparison
from tests.integration.backends import COLLECTOR_GRPC, Backend, Tap, collector, prometheus, query
from tests.integration.comparison import Series
from tests.support.lab_agent import Agent, figure, talking, watched

CUMULATIVE, DELTA = "cumulative", "delta"
INTERVAL = "1s"
TRAFFIC_S = 10.0
SUFFIXES = {"s": "_seconds", "By": "_bytes"}
# The Prometheus selector of the RTTs whose true values are known: these RTTs include the delay of the lab's link.
RTT = 'epping_rtt_duration_seconds{{instance="{}",epping_rtt_side="external",epping_rtt_method="tcp_timestamp"}}'
# The permitted difference between a median and the true delay. The link runs in user space, as in the demo, and adds a
# little time.
SLACK_S, SLACK = 0.002, 0.10


@dataclass
class Run:
    """The results of the run. `sent` has the requests of the agent that exports cumulative counts. `passed` has the
    requests that each pipeline of the Collector wrote to its file. `files` has the files of the Collector, and the
    recording of each agent."""

    lab: Lab
    prometheus: Backend
    sent: list[Any]
    passed: dict[str, list[Any]]
    files: dict[str, Path]

    @property
    def end_ns(self) -> int:
        """A time at which Prometheus has all points: one second after the last point."""
        everything = [*self.sent, *self.passed["accumulated"]]
        return max(int(points[-1].time_unix_nano) for points in comparison.series(everything).values()) + 10**9

    def last(self, agent: str) -> dict[Series, Any]:
        """Returns the last points that Prometheus received from an agent: one point for each series."""
        requests = self.sent if agent == CUMULATIVE else self.passed["accumulated"]
        return {series: points[-1] for series, points in comparison.series(requests).items()}


@pytest.fixture(scope="module")
def ran(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("integration")
    with (
        prometheus(lab.router, folder) as store,
        collector(lab.router, folder) as middle,
        Tap(lab.router) as tap,
        ExitStack() as stack,
    ):
        endpoint = tap.http_endpoint.removesuffix("/v1/metrics")
        files = {name: folder / f"{name}.json" for name in (CUMULATIVE, DELTA, "accumulated")}
        recordings = Path(stack.enter_context(TemporaryDirectory()))
        recordings.chmod(0o777)  # the agents have another user
        files |= {f"recording of {name}": recordings / name for name in (CUMULATIVE, DELTA)}
        agents = [
            Agent(
                lab,
                folder,
                CUMULATIVE,
                endpoint,
                INTERVAL,
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
                OTEL_EPPING_RECORD=str(recordings / CUMULATIVE),
            ),
            Agent(
                lab,
                folder,
                DELTA,
                COLLECTOR_GRPC,
                INTERVAL,
                OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
                OTEL_EPPING_RECORD=str(recordings / DELTA),
            ),
        ]
        with watched(agents), talking(lab):
            time.sleep(TRAFFIC_S)
        middle.stop()
        assert not re.search(r"\t(warn|error)\t", middle.log), middle.log
        passed = {name: comparison.read(files[name]) for name in (CUMULATIVE, DELTA, "accumulated")}
        yield Run(lab, store, tap.requests, passed, files)


def prometheus_name(name: str, unit: str, is_counter: bool) -> str:
    """Returns Prometheus' name of a metric: dots become underscores, the unit is appended, and a counter ends in
    _total."""
    return name.replace(".", "_") + SUFFIXES.get(unit, "") + ("_total" if is_counter else "")


def names() -> dict[str, str]:
    """Returns Prometheus' name for each of our metric names."""
    return {
        metric.name: prometheus_name(metric.name, metric.unit, metric.kind == "counter")
        for metric in metric_table.METRICS
    }


def labels(attributes: tuple[tuple[str, Any], ...]) -> frozenset[tuple[str, str]]:
    text = {True: "true", False: "false"}
    return frozenset((key.replace(".", "_"), text.get(value, value)) for key, value in attributes)


def held(run: Run, agent: str) -> dict[tuple[str, frozenset[tuple[str, str]]], Any]:
    """Returns all values that Prometheus has from an agent, by name and labels. A value is a number or a native
    histogram."""
    found = {}
    for result in query(run.prometheus, f'{{instance="{agent}",__name__!="target_info"}}', run.end_ns):
        metric: dict[str, str] = result["metric"]
        assert metric.pop("instance") == agent
        assert metric.pop("job") == "otel-epping"
        name = metric.pop("__name__")
        found[name, frozenset(metric.items())] = result["histogram" if "histogram" in result else "value"][1]
    return found


def same_buckets(native: dict[str, Any], point: Any) -> bool:
    """Returns true if a native histogram has the same buckets as the point. Prometheus describes each bucket by its
    bounds in seconds. A bucket excludes the lower bound and includes the upper bound."""
    per_doubling = 2**point.scale
    found = {}
    for rule, lower, upper, count in native.get("buckets", ()):
        index = math.log2(float(upper)) * per_doubling - 1
        assert rule == 0, "the bucket must exclude its lower bound and include its upper bound"
        assert float(upper) / float(lower) == pytest.approx(2 ** (1 / per_doubling))
        assert index == pytest.approx(round(index), abs=1e-6)
        found[round(index)] = int(count)
    return found == comparison.buckets(point)


def test_the_collector_forwards_exactly_the_points_that_the_agent_sent(ran: Run) -> None:
    sent, passed = comparison.points(ran.sent), comparison.points(ran.passed[CUMULATIVE])
    figure("points sent, points forwarded unchanged", f"{sent.total()}, {(sent & passed).total()}")
    assert sent.total() > 1000
    assert passed == sent


def test_the_sums_of_the_deltas_equal_the_accumulated_values(ran: Run) -> None:
    """After delta_to_cumulative, each number and each bucket must be the sum of the deltas that the agent exported."""
    deltas, totals = comparison.series(ran.passed[DELTA]), ran.last(DELTA)
    assert totals.keys() == deltas.keys()
    kinds = {metric.name: (metric, data) for _, metric, data in comparison.metrics(ran.passed[DELTA])}
    for one, points in deltas.items():
        metric, data = kinds[one[0]]
        total = totals[one]
        if metric.HasField("exponential_histogram"):
            assert data.aggregation_temporality == 1
            assert total.count == sum(point.count for point in points)
            assert total.sum == pytest.approx(sum(point.sum for point in points))
            assert (total.min, total.max) == (min(p.min for p in points), max(p.max for p in points))
            found: Counter[int] = Counter()
            for point in points:
                coarser = point.scale - total.scale  # positive if all points together span more than 160 buckets
                for index, count in comparison.buckets(point).items():
                    found[index >> coarser] += count
            assert comparison.buckets(total) == found
        elif metric.HasField("sum") and data.is_monotonic:
            assert data.aggregation_temporality == 1
            assert total.as_int == sum(point.as_int for point in points)
        else:  # a gauge or an up-down counter, which is never exported as a delta
            assert total == points[-1]


@pytest.mark.parametrize("agent", [CUMULATIVE, DELTA])
def test_prometheus_holds_every_series_with_its_value(ran: Run, agent: str) -> None:
    """Compares the names (which include the units), the labels, the numbers, and each bucket of the histograms."""
    found, prometheus_names = held(ran, agent), names()
    sent = {
        (prometheus_names[name], labels(attributes)): point for (name, attributes), point in ran.last(agent).items()
    }
    assert found.keys() == sent.keys()
    for key, point in sent.items():
        if hasattr(point, "scale"):
            assert (int(found[key]["count"]), float(found[key]["sum"])) == (point.count, point.sum), key
            assert same_buckets(found[key], point), key
        else:
            assert float(found[key]) == getattr(point, point.WhichOneof("value")), key
    figure(f"series of the {agent} agent, equal in Prometheus", len(found))


@pytest.mark.parametrize("agent", [CUMULATIVE, DELTA])
def test_the_resource_is_in_target_info(ran: Run, agent: str) -> None:
    (target,) = query(ran.prometheus, f'target_info{{instance="{agent}"}}', ran.end_ns)
    assert target["metric"]["job"] == "otel-epping"
    assert target["metric"]["deployment_environment_name"] == "lab"


@pytest.mark.parametrize("agent", [CUMULATIVE, DELTA])
@pytest.mark.parametrize("form", ["{}", "rate({}[5m])"])
def test_quantiles_of_each_subnet_match_the_true_delays(ran: Run, agent: str, form: str) -> None:
    by_subnet = f"sum by (epping_subnet) ({form.format(RTT.format(agent))})"
    quantiles = {
        q: {
            result["metric"]["epping_subnet"]: float(result["value"][1])
            for result in query(ran.prometheus, f"histogram_quantile({q}, {by_subnet})", ran.end_ns)
        }
        for q in (0, 0.5, 0.95)
    }
    bucket = 2 ** (1 / 2**4)  # the ratio between the bounds of a bucket
    for network in ran.lab.networks:
        subnet = str(network.subnet)
        least, median, p95 = (quantiles[q][subnet] for q in quantiles)
        figure(f"{agent} {form} {subnet}: delay, minimum, median, p95 in ms", _in_ms(network, least, median, p95))
        true = network.delay_ns / 1e9
        assert true / bucket <= least <= median <= p95
        assert median <= (true + max(SLACK_S, true * SLACK)) * bucket


@pytest.mark.parametrize(
    ("agent", "files"), [(CUMULATIVE, [CUMULATIVE]), (DELTA, [DELTA, "accumulated"])], ids=[CUMULATIVE, DELTA]
)
def test_the_files_of_the_collector_have_the_history_of_the_recording(ran: Run, agent: str, files: list[str]) -> None:
    """The Collector's files and the recordings have the same counts and buckets, with both temporalities."""
    recording = read_sources([str(ran.files[f"recording of {agent}"])])
    assert recording.notes == []
    figure(f"counts and histograms of the {agent} agent that are equal in all files", len(content(recording)))
    for name in files:
        history = read_sources([str(ran.files[name])])
        assert history.notes == []
        # A cumulative histogram with many buckets has a lower scale.
        scale = None if name == DELTA else 0
        assert content(history, scale) == content(recording, scale)


def _in_ms(network: DelayedNetwork, *times: float) -> str:
    return ", ".join(f"{value * 1e3:.2f}" for value in (network.delay_ns / 1e9, *times))


def test_prometheus_and_we_compute_the_same_quantiles(ran: Run) -> None:
    """Our quantile and Prometheus' quantile differ by at most the width of one bucket. They are not equal because
    interpolation inside a bucket is not standardized, and Prometheus does not store the minimum and the maximum."""
    points = {
        labels(attributes): point
        for (name, attributes), point in ran.last(CUMULATIVE).items()
        if name == metric_table.RTT.name
    }
    for q in (0.05, 0.5, 0.95, 0.99):
        results = query(ran.prometheus, f"histogram_quantile({q}, {RTT.format(CUMULATIVE)})", ran.end_ns)
        assert len(results) >= len(ran.lab.networks)
        for result in results:
            metric = result["metric"]
            del metric["instance"], metric["job"]
            point = points[frozenset(metric.items())]
            counts = np.array(point.positive.bucket_counts, np.uint64)
            buckets = histogram.Buckets(counts, point.positive.offset, point.scale)
            ours = histogram.quantile(buckets, q, point.min, point.max)
            assert abs(math.log2(float(result["value"][1]) / ours)) <= 2**-point.scale, metric
