# SPDX-License-Identifier: Apache-2.0
"""Runs each query of the dashboard and of the rules against the real Prometheus, after real traffic. The tests compare
the results with the metrics that the agents exported.

Two agents watch the same connections. `core` has the default metrics and limits, and exports to Prometheus' OTLP
receiver. `classes` also exports the traffic classes, through the Collector with the example configuration for remote
write. So the names of the metrics must be the same with OTLP and with remote write. For some of the time, the router
drops packets, so that segments are retransmitted.

The tests shorten the time ranges of the dashboard and of the rules, because the traffic lasts only for seconds.
"""

import json
import math
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_epping.lab.topology import Lab
from otel_epping.otel import metric_table
from tests.integration import comparison
from tests.integration.backends import (
    PROMETHEUS_OTLP,
    PROMETHEUS_WRITE,
    Backend,
    Tap,
    built,
    example_collector,
    fetch,
    prometheus,
    query,
    query_range,
)
from tests.support.lab_agent import Agent, figure, talking, watched

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DASHBOARD = json.loads((EXAMPLES / "grafana" / "dashboard.json").read_text())
PERSES = json.loads((EXAMPLES / "perses" / "dashboard.json").read_text())
RULES = EXAMPLES / "prometheus" / "rules.yaml"
CORE, CLASSES = "core", "classes"
TRAFFIC_S, DROPPING_S = 14.0, 0.8
# The window contains the whole measurement.
WINDOW_S, BASELINE_S = 60, 4
VARIABLES = {
    "__rate_interval": f"{WINDOW_S}s",
    "__range": f"{WINDOW_S}s",
    "window": f"{WINDOW_S}s",
    "baseline": f"{BASELINE_S}s",
    "group": "epping_network_name, epping_subnet",
    "interface": ".*",
    "side": ".*",
    "method": ".*",
}
# In each bucket, upper bound / lower bound is less than this. Prometheus interpolates inside a bucket. The scale of the
# default histograms is 4 or more.
BUCKET = 2 ** (1 / 2**3)
# rate() extrapolates to both ends of the window by up to half of the interval between the points.
EXTRAPOLATION = 0.2
MIN_SAMPLES = 20

_DOTTED = {
    "direction": "epping.traffic.direction",
    "traffic_class": "epping.traffic.class",
    "kind": "epping.packet.kind",
    "outcome": "epping.measurement.outcome",
}
Line = tuple[str, str]  # subnet, side
Values = dict[Any, float]


class Histogram(Counter[float]):
    """The number of RTTs in each bucket, by the middle of the bucket. `sum_s` is the sum of the RTTs in seconds."""

    sum_s = 0.0

    def add(self, point: Any, scale: int, sign: int = 1) -> None:
        """Adds or subtracts the counts of a point, in buckets of a scale that is not above the scale of the point."""
        for index, count in comparison.buckets(point).items():
            self[2 ** (((index >> (point.scale - scale)) + 0.5) / 2**scale)] += sign * count
        self.sum_s += sign * point.sum

    def quantile(self, q: float) -> float:
        below = 0
        for middle in sorted(+self):
            below += self[middle]
            if below >= q * self.total():
                return middle
        return math.nan


class Truth:
    """The counts that an agent exported until a time. If `without_first` is set, the first point of each series is the
    baseline. rate() and increase() count in the same way if Prometheus does not know the start time.
    """

    def __init__(self, requests: list[Any], until_ns: float, without_first: bool) -> None:
        self._points: dict[str, list[tuple[dict[str, Any], list[Any]]]] = defaultdict(list)
        self._without_first = without_first
        for (name, attributes), points in comparison.series(requests).items():
            if before := [point for point in points if point.time_unix_nano <= until_ns]:
                self._points[name].append((dict(attributes), before))

    def sums(self, metric: str, *by: str, **attributes: str) -> Values:
        """Returns the sum of a metric for each combination of attributes. Keyword arguments are patterns for
        attributes.
        """
        wanted = {_DOTTED[name]: value for name, value in attributes.items()}
        found: Values = defaultdict(float)
        for present, points in self._points[metric]:
            if all(re.fullmatch(value, present.get(name, "")) for name, value in wanted.items()):
                first, last = (getattr(point, point.WhichOneof("value")) for point in (points[0], points[-1]))
                found[tuple(present.get(name, "") for name in by)] += last - first * self._without_first
        return dict(found)

    def total(self, metric: str, **attributes: str) -> float:
        return sum(self.sums(metric, **attributes).values())

    def lines(self, metric: str, **attributes: str) -> dict[Line, float]:
        found = self.sums(metric, "epping.subnet", "epping.rtt.side", **attributes)
        return {line: value for line, value in found.items() if line[0]}

    def rtts(self) -> dict[Line, Histogram]:
        found: dict[Line, Histogram] = defaultdict(Histogram)
        for attributes, points in self._points[metric_table.RTT.name]:
            self._add(found[attributes["epping.subnet"], attributes["epping.rtt.side"]], points)
        return dict(found)

    def all_rtts(self) -> Histogram:
        found = Histogram()
        for _, points in self._points[metric_table.RTT.name]:
            self._add(found, points)
        return found

    def _add(self, histogram: Histogram, points: list[Any]) -> None:
        first, last = points[0], points[-1]
        histogram.add(last, last.scale)
        if self._without_first:
            histogram.add(first, last.scale, sign=-1)


@dataclass
class Run:
    prometheus: Backend
    sent: dict[str, list[Any]]
    end_ns: int

    def truth(self, agent: str, earlier_s: float = 0) -> Truth:
        """Returns the counts that rate() returns. With remote write, Prometheus does not know the start times."""
        return Truth(self.sent[agent], self.end_ns - earlier_s * 1e9, without_first=agent == CLASSES)

    def last(self, agent: str) -> Truth:
        """Returns the last values, for metrics that are not counters."""
        return Truth(self.sent[agent], self.end_ns, without_first=False)


def shortened(rules: str) -> str:
    """Returns the rules with an interval of one second, and with days of one second that start two seconds ago."""
    rules = re.sub(r"interval: \dm", "interval: 1s", rules)
    rules = re.sub(r"offset (\d+)h30m", lambda found: f"offset {(int(found[1]) + 1) // 24 + 1}s", rules)
    return rules.replace(">= 1000", ">= 100")


@pytest.fixture(scope="module")
def ran(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("dashboard")
    options = ("--web.enable-remote-write-receiver", "--enable-feature=created-timestamp-zero-ingestion")
    remote_write = EXAMPLES / "collector" / "prometheus-remote-write.yaml"
    with (
        prometheus(lab.router, folder, *options, rules=shortened(RULES.read_text())) as store,
        example_collector(lab.router, folder, remote_write, REMOTE_WRITE=PROMETHEUS_WRITE) as middle,
        Tap(lab.router, PROMETHEUS_OTLP) as core,
        Tap(lab.router) as classes,
    ):
        taps = {CORE: core, CLASSES: classes}
        settings = {
            name: {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_EPPING_METRICS": metrics,
                "OTEL_EPPING_MAX_SERIES": "500",
            }
            for name, metrics in ((CORE, "core"), (CLASSES, "core,traffic"))
        }
        agents = [
            Agent(lab, folder, name, tap.http_endpoint.removesuffix("/v1/metrics"), "1s", **settings[name])
            for name, tap in taps.items()
        ]
        with watched(agents), talking(lab):
            for _ in range(3):  # after the first time, the counters exist
                time.sleep(TRAFFIC_S / 3)
                lab.router.run("ip", "route", "add", "blackhole", "10.1.0.2/32")
                time.sleep(DROPPING_S)
                lab.router.run("ip", "route", "del", "blackhole", "10.1.0.2/32")
        middle.stop()
        assert not re.search(r"\terror\t", middle.log), middle.log
        time.sleep(2)  # until Prometheus has evaluated the rules with the last points
        yield Run(store, {name: tap.requests for name, tap in taps.items()}, time.time_ns())


PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = {(panel["title"], target["refId"]): target for panel in PANELS for target in panel["targets"]}


def substituted(expr: str, agent: str) -> str:
    for name, value in (VARIABLES | {"agent": agent}).items():
        expr = expr.replace(f"${{{name}:csv}}", value).replace(f"${name}", value)
    assert "$" not in expr
    return expr


def result(run: Run, target: dict[str, Any], agent: str) -> list[dict[str, Any]]:
    """Returns the result of a query, with the last value of each series in "value" or "histogram"."""
    expr = substituted(target["expr"], agent)
    if target["instant"]:
        return query(run.prometheus, expr, run.end_ns)
    found = query_range(run.prometheus, expr, run.end_ns - 5 * 10**9, run.end_ns, 1)
    for series in found:
        for many, one in (("values", "value"), ("histograms", "histogram")):
            if many in series:
                series[one] = series[many][-1]
    return found


def by(*labels: str) -> Callable[[list[dict[str, Any]]], Values]:
    """Returns a function that returns the values of a result by labels."""

    def values(found: list[dict[str, Any]]) -> Values:
        keyed = {tuple(each["metric"].get(label, "") for label in labels): float(each["value"][1]) for each in found}
        assert len(keyed) == len(found), "the labels do not distinguish the series"
        return keyed

    return values


by_line = by("epping_subnet", "epping_rtt_side")
the_only = by()


def agree(found: Values, expected: Mapping[Any, float], relative: float, absolute: float = 1e-9) -> None:
    assert found, "no data"
    assert found.keys() <= expected.keys()
    for key, value in found.items():
        assert value == pytest.approx(expected[key], rel=relative, abs=absolute), key


def ratio(part: Values, whole: Values) -> Values:
    return {key: part.get(key, 0) / value for key, value in whole.items() if value}


@pytest.mark.parametrize("agent", [CORE, CLASSES])
class TestPanels:
    """Each test names the queries that it checks. `test_each_query_is_tested` finds queries without a test."""

    @pytest.mark.parametrize(
        ("panel", "ref", "q"),
        [
            ("p95 by network and time", "A", 0.95),
            ("Top 10 by change of p95", "B", 0.95),
            ("Top 10 by impact", "B", 0.5),
            ("Top 10 by impact", "C", 0.95),
            ("Top 10 by impact", "D", 0),
        ],
    )
    def test_quantiles_of_lines(self, ran: Run, agent: str, panel: str, ref: str, q: float) -> None:
        found = by_line(result(ran, QUERIES[panel, ref], agent))
        agree(found, {line: rtts.quantile(q) for line, rtts in ran.truth(agent).rtts().items()}, BUCKET - 1)
        assert len(found) == (10 if panel.startswith("Top") else 14)

    def test_change_of_p95(self, ran: Run, agent: str) -> None:
        target = QUERIES["Top 10 by change of p95", "C"]
        now, before = (ran.truth(agent, earlier_s).rtts() for earlier_s in (0, BASELINE_S))
        p95 = {line: (now[line].quantile(0.95), before[line].quantile(0.95)) for line in before}
        agree(by_line(result(ran, target, agent)), {line: each[1] for line, each in p95.items()}, BUCKET - 1)
        change = by_line(result(ran, QUERIES["Top 10 by change of p95", "A"], agent))
        for line, value in change.items():
            after, earlier = p95[line]
            assert value == pytest.approx(after - earlier, abs=2 * (BUCKET - 1) * after), line
        (slower,) = the_only(result(ran, QUERIES["Slower than before", "A"], agent)).values()
        (compared,) = the_only(result(ran, QUERIES["Slower than before", "B"], agent)).values()
        assert compared == sum(rtts.total() >= MIN_SAMPLES for rtts in before.values())
        (now_s, before_s) = (by_line(result(ran, QUERIES["Top 10 by change of p95", ref], agent)) for ref in "BC")
        assert slower == sum(now_s[line] > max(1.5 * before_s[line], before_s[line] + 0.002) for line in now_s)

    def test_all_rtts(self, ran: Run, agent: str) -> None:
        rtts = ran.truth(agent).all_rtts()
        for ref, q in (("A", 0.5), ("B", 0.95)):
            agree(
                the_only(result(ran, QUERIES["All round-trip times", ref], agent)), {(): rtts.quantile(q)}, BUCKET - 1
            )
        counted = the_only(result(ran, QUERIES["All round-trip times", "C"], agent))
        agree(counted, {(): rtts.total()}, EXTRAPOLATION)

    @pytest.mark.parametrize(("panel", "ref"), [("Top 10 by change of p95", "D"), ("Top 10 by impact", "F")])
    def test_samples_of_lines(self, ran: Run, agent: str, panel: str, ref: str) -> None:
        expected = {line: rtts.total() for line, rtts in ran.truth(agent).rtts().items()}
        agree(by_line(result(ran, QUERIES[panel, ref], agent)), expected, EXTRAPOLATION)

    def test_heat_map(self, ran: Run, agent: str) -> None:
        (found,) = result(ran, QUERIES["Distribution of round-trip times", "A"], agent)
        rtts = ran.truth(agent).all_rtts()
        histogram = found["histogram"][1]
        assert float(histogram["count"]) * WINDOW_S == pytest.approx(rtts.total(), rel=EXTRAPOLATION)
        assert float(histogram["sum"]) / float(histogram["count"]) == pytest.approx(rtts.sum_s / rtts.total(), rel=0.05)

    def test_impact(self, ran: Run, agent: str) -> None:
        truth = ran.truth(agent)
        octets = truth.lines("epping.network.io")
        expected = {
            line: octets[line] / WINDOW_S * (rtts.sum_s / rtts.total() - rtts.quantile(0))
            for line, rtts in truth.rtts().items()
        }
        spread = {line: octets[line] / WINDOW_S * rtts.sum_s / rtts.total() for line, rtts in truth.rtts().items()}
        found = by_line(result(ran, QUERIES["Top 10 by impact", "A"], agent))
        assert len(found) == 10
        for line, value in found.items():
            # The error of the minimum RTT is at most the width of a bucket, so it is a small share of the mean RTT.
            assert value == pytest.approx(expected[line], rel=0.25, abs=spread[line] * (BUCKET - 1)), line
        worst = by_line(result(ran, QUERIES["Worst network", "A"], agent))
        assert worst == {max(found, key=lambda line: found[line]): max(found.values())}

    @pytest.mark.parametrize(("panel", "ref"), [("Top 10 by impact", "E"), ("Traffic of networks", "A")])
    def test_traffic(self, ran: Run, agent: str, panel: str, ref: str) -> None:
        bits = {line: 8 * octets / WINDOW_S for line, octets in ran.truth(agent).lines("epping.network.io").items()}
        agree(by_line(result(ran, QUERIES[panel, ref], agent)), bits, EXTRAPOLATION)

    def test_loss_of_networks(self, ran: Run, agent: str) -> None:
        for ref, way in (("A", "to"), ("B", "from")):
            truth = ran.truth(agent)
            lost = truth.lines("epping.tcp.retransmission.count", direction=way)
            tcp = {"traffic_class": "tcp_.*"} if agent == CLASSES else {}
            sent = truth.lines("epping.network.packet.count", direction=way, **tcp)
            assert sum(lost.values()) > 5
            found = by_line(result(ran, QUERIES["Loss to and from networks", ref], agent))
            assert any(found.values())
            agree(found, ratio(lost, sent), EXTRAPOLATION, 1e-3)

    def test_loss_of_all(self, ran: Run, agent: str) -> None:
        truth = ran.truth(agent)
        lost = truth.total("epping.tcp.retransmission.count", direction="to")
        sent = truth.total("epping.interface.packet.count", kind="tcp")
        figure(f"{agent}: retransmitted, TCP packets", f"{lost}, {sent}")
        agree(the_only(result(ran, QUERIES["Loss and alerts", "A"], agent)), {(): lost / sent}, EXTRAPOLATION)
        assert the_only(result(ran, QUERIES["Loss and alerts", "B"], agent)) == {(): 0}

    def test_tcp_packets_with_timestamps(self, ran: Run, agent: str) -> None:
        found = by("epping_rtt_side")(result(ran, QUERIES["TCP packets with timestamps", "A"], agent))
        if agent == CORE:  # these packets have no class, so the panel shows the needed setting
            assert not found
            return
        classes = {
            each: ran.truth(agent).sums("epping.network.packet.count", "epping.rtt.side", traffic_class=each)
            for each in ("tcp_timestamp", "tcp_.+")
        }
        assert found.keys() == {("internal",), ("external",)}
        agree(found, ratio(classes["tcp_timestamp"], classes["tcp_.+"]), 0.05)

    def test_rtts_per_packet(self, ran: Run, agent: str) -> None:
        truth = ran.truth(agent)
        measured = truth.total("epping.agent.measurement.count", outcome="measured")
        tcp = truth.total("epping.interface.packet.count", kind="tcp")
        found = by("network_interface_name")(result(ran, QUERIES["RTTs per TCP packet", "A"], agent))
        agree(found, {("wan0",): measured / tcp}, 0.05)
        outcomes = truth.sums("epping.agent.measurement.count", "epping.measurement.outcome")
        rates = {outcome: count / WINDOW_S for outcome, count in outcomes.items()}
        found = by("epping_measurement_outcome")(result(ran, QUERIES["Outcomes of RTT samples", "A"], agent))
        agree(found, rates, EXTRAPOLATION)

    def test_packets_seen(self, ran: Run, agent: str) -> None:
        truth = ran.truth(agent)
        seen, kernel = (
            truth.sums(metric, "network.io.direction")
            for metric in ("epping.interface.packet.count", "epping.agent.interface.packet.count")
        )
        found = by("network_io_direction")(result(ran, QUERIES["Packets seen / packets of the kernel", "A"], agent))
        assert found.keys() == {("receive",), ("transmit",)}
        agree(found, ratio(seen, kernel), EXTRAPOLATION)

    @pytest.mark.parametrize(
        ("panel", "ref", "metric"),
        [
            ("Subnets and flows that are not measured or not shown", "A", "epping.agent.subnet.unanswered"),
            ("Subnets and flows that are not measured or not shown", "B", "epping.flow.unidirectional"),
            ("Subnets and flows that are not measured or not shown", "C", "epping.agent.series.overflowed"),
            ("Subnets and flows that are not measured or not shown", "D", "epping.agent.series.rolled_up"),
            ("Attached", "A", "epping.agent.interface.attached"),
            ("Failed exports", "A", "epping.agent.export.failed"),
            ("Failed exports", "B", "epping.agent.export.rejected"),
            ("Duration of an export", "A", "epping.agent.export.duration"),
            ("Duration of an export", "B", "epping.agent.read.duration"),
            ("Memory of the agent", "A", "epping.agent.memory.usage"),
        ],
    )
    def test_numbers_of_the_agent(self, ran: Run, agent: str, panel: str, ref: str, metric: str) -> None:
        assert the_only(result(ran, QUERIES[panel, ref], agent)) == {(): ran.last(agent).total(metric)}

    def test_use_of_limits(self, ran: Run, agent: str) -> None:
        truth = ran.last(agent)
        for ref, name in zip("ABC", ("subnet", "flow", "series"), strict=True):
            used = truth.total(f"epping.agent.{name}.usage") / truth.total(f"epping.agent.{name}.limit")
            agree(the_only(result(ran, QUERIES["Use of limits", ref], agent)), {(): used}, 1e-9)

    def test_share_without_overflow(self, ran: Run, agent: str) -> None:
        target = QUERIES["Share of RTTs that are not on the overflow point", "A"]
        agree(the_only(result(ran, target, agent)), {(): 1.0}, 1e-6)


def test_each_query_is_tested() -> None:
    text = Path(__file__).read_text()
    assert len(QUERIES) == sum(len(panel["targets"]) for panel in PANELS), "two panels have the same title"
    assert [title for title, _ in QUERIES if f'"{title}"' not in text] == []


def test_other_queries_of_perses_have_the_same_results(ran: Run) -> None:
    """This test runs the queries that differ between Perses and Grafana. All other queries are equal."""
    grafana = {substituted(target["expr"], CORE): target for target in QUERIES.values()}
    others = {
        substituted(each["spec"]["plugin"]["spec"]["query"], CORE)
        for panel in PERSES["spec"]["panels"].values()
        for each in panel["spec"]["queries"]
    } - set(grafana)
    assert others
    for expr in others:
        target = grafana[expr.replace("] @ end()", "]")]
        assert target["instant"]
        expected = {key(each): float(each["value"][1]) for each in result(ran, target, CORE)}
        found = {key(each): float(each["value"][1]) for each in result(ran, {"expr": expr, "instant": False}, CORE)}
        assert found == pytest.approx(expected), expr
        assert found, expr


def test_the_variables_find_their_values(ran: Run) -> None:
    expected = {
        "agent": {CORE, CLASSES},
        "interface": {"wan0"},
        "side": {"internal", "external"},
        "method": {"tcp_timestamp", "tcp_sequence", "tcp_handshake"},
    }
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            ((metric, label),) = re.findall(r"label_values\((\w+), (\w+)\)", variable["definition"])
            address = f"http://127.0.0.1:9090/api/v1/label/{label}/values?match[]={metric}"
            found = json.loads(fetch(ran.prometheus.namespace, address))["data"]
            assert set(found) >= expected.pop(variable["name"]), variable["name"]
    assert not expected


@pytest.mark.parametrize(
    "labels", ["network_peer_as_number, network_peer_as_organization_name", "geo_country_iso_code"]
)
def test_networks_without_a_value_are_one_group(ran: Run, labels: str) -> None:
    """The lab has no database of AS numbers and countries. So each side is one group."""
    (variable,) = (each for each in DASHBOARD["templating"]["list"] if each["name"] == "group")
    assert labels in {each["value"] for each in variable["options"]}
    for (title, ref), target in QUERIES.items():
        if "$group" in target["expr"] and title != "Slower than before":
            grouped = {**target, "expr": target["expr"].replace("$group", labels)}
            found = by("epping_rtt_side")(result(ran, grouped, CORE))
            assert {side for (side,) in found} <= {"internal", "external"}, (title, ref)
            assert found or title == "Top 10 by change of p95", (title, ref)


RULE_LIST = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULE_LIST if "alert" in rule]


@pytest.mark.parametrize("recorded", ["now", "hour"])
@pytest.mark.parametrize("agent", [CORE, CLASSES])
class TestRecordingRules:
    def test_p95(self, ran: Run, agent: str, recorded: str) -> None:
        found = by_line(
            query(ran.prometheus, f'epping:{recorded}{{statistic="rtt_p95",instance="{agent}"}}', ran.end_ns)
        )
        assert len(found) == 14
        agree(found, {line: rtts.quantile(0.95) for line, rtts in ran.truth(agent).rtts().items()}, BUCKET - 1)

    def test_loss(self, ran: Run, agent: str, recorded: str) -> None:
        truth = ran.truth(agent)
        tcp = {"traffic_class": "tcp_.*"} if agent == CLASSES else {}
        keys = ("epping.subnet", "epping.rtt.side", "epping.traffic.direction")
        lost = truth.sums("epping.tcp.retransmission.count", *keys)
        sent = truth.sums("epping.network.packet.count", *keys, **tcp)
        found = by(*(key.replace(".", "_") for key in keys))(
            query(ran.prometheus, f'epping:{recorded}{{statistic="loss",instance="{agent}"}}', ran.end_ns)
        )
        assert any(found.values())
        agree(found, ratio(lost, sent), EXTRAPOLATION, 1e-3)

    def test_coverage(self, ran: Run, agent: str, recorded: str) -> None:
        truth = ran.truth(agent)
        measured = truth.total("epping.agent.measurement.count", outcome="measured")
        tcp = truth.total("epping.interface.packet.count", kind="tcp")
        found = query(ran.prometheus, f'epping:{recorded}{{statistic="coverage",instance="{agent}"}}', ran.end_ns)
        agree(by("network_interface_name")(found), {("wan0",): measured / tcp}, 0.1)


def test_the_baseline_is_the_median_of_earlier_days(ran: Run) -> None:
    """In this test, a day is one second. The seven days are 2 to 8 s before the evaluation of the rules, and the
    evaluation is up to 2 s old.
    """
    days = query(ran.prometheus, "count without (day) (epping:same_hour)", ran.end_ns)
    assert {each["value"][1] for each in days} == {"7"}
    earlier = query_range(ran.prometheus, "epping:hour", ran.end_ns - 10 * 10**9, ran.end_ns - 2 * 10**9, 1)
    hours = {key(each): [float(value) for _, value in each["values"]] for each in earlier}
    medians = {key(each): float(each["value"][1]) for each in query(ran.prometheus, "epping:baseline", ran.end_ns)}
    assert medians.keys() == hours.keys()
    assert {dict(labels)["statistic"] for labels in medians} == {"rtt_p95", "loss", "coverage"}
    for labels, median in medians.items():
        assert min(hours[labels]) <= median <= max(hours[labels]), labels


def key(series: dict[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((name, value) for name, value in series["metric"].items() if name != "__name__")


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_no_alert_fires_and_each_alert_has_its_metrics(ran: Run, rule: dict[str, Any]) -> None:
    """tests.yaml tests that the alerts fire. Here, only EppingLossHigh may fire, because the router dropped packets."""
    firing = query(ran.prometheus, rule["expr"], ran.end_ns)
    if rule["alert"] != "EppingLossHigh":
        assert not firing
    if rule["alert"] == "EppingTableFull":
        return  # the metric does not exist before the first failure
    for metric in set(re.findall(r"\b(epping:\w+|epping_(?:agent|interface)_\w+)", rule["expr"])):
        assert query(ran.prometheus, metric, ran.end_ns), metric


def test_promtool_accepts_the_rules() -> None:
    subprocess.run([built("promtool"), "check", "rules", "--lint=all", "--lint-fatal", RULES], check=True)


def test_the_unit_tests_of_the_rules_pass() -> None:
    subprocess.run([built("promtool"), "test", "rules", RULES.parent / "tests.yaml"], check=True)
