# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping cost` as a user runs it, with captures and with real traffic, and the agent's line about its first
export."""

import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import WAN_INTERFACE, Lab
from otel_epping.otel import metric_table
from otel_epping.otel.metric import GROUPS
from tests.support.captures import BEGIN_NS, Packet, pcap
from tests.support.command import Agent, converse, environment, epping, said
from tests.support.conversation import Conversation
from tests.support.lab_agent import Agent as LabAgent
from tests.support.lab_agent import eventually, talking
from tests.support.link_types import LINKS
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, assert_unprivileged

pytestmark = pytest.mark.parallel

SMALL = ("--max-subnets", "1000", "--max-flows", "1000")
TALKS = [Conversation(number) for number in range(12)]
SUBNETS = sorted({subnet for talk in TALKS for subnet in (talk.server, talk.client)})


@pytest.fixture
def capture(tmp_path: Path) -> str:
    packets = [packet for talk in TALKS for packet in talk.packets(*LINKS["ethernet"])]
    (tmp_path / "talks.pcap").write_bytes(pcap(packets))
    return str(tmp_path / "talks.pcap")


def measured(result: subprocess.CompletedProcess[str]) -> Any:
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_the_numbers_are_those_of_the_request_that_a_receiver_gets(ns: Namespace, capture: str) -> None:
    with Sink(namespace=ns) as sink:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        replayed = epping(ns, "replay", *SMALL, "--otlp", capture, settings=endpoint)
        assert (replayed.returncode, replayed.stderr) == (0, "")
        (received,) = sink.received
        points = [
            point
            for _, metric in sink.metrics()
            for point in getattr(metric, str(metric.WhichOneof("data"))).data_points
        ]
        rtts = sink.points(metric_table.RTT.name)
    found = measured(epping(ns, "cost", *SMALL, "--format", "json", capture))
    export = found["export"]
    assert (export["requests"], export["data_points"], export["series"]) == (1, len(points), len(points))
    assert export["bytes"] == received.size
    groups = {each["group"]: each for each in found["groups"]}
    assert groups["rtt"]["points"] == len(rtts)
    assert sum(each["points"] for each in groups.values()) == len(points)
    assert found["networks"] == {
        "answered": 24,
        "never_answered": 0,
        "individual": 24,
        "covering": 0,
        "rolled_up": 0,
        "overflowed": 0,
    }
    assert found["packets"] == len(TALKS) * len(TALKS[0].ip)
    assert found["vendor_units"]["points_per_minute"] == len(points)


def test_the_settings_apply(ns: Namespace, capture: str) -> None:
    everything = measured(epping(ns, "cost", *SMALL, "--format", "json", "--metrics", "all", capture))
    few = ("--metrics", "rtt", "--attributes", "rtt=subnet,side", "--max-series", "8", "--interval", "30s")
    found = measured(epping(ns, "cost", *SMALL, "--format", "json", *few, capture))
    groups = {each["group"]: each for each in found["groups"]}
    assert found["networks"]["individual"] + found["networks"]["covering"] <= 8
    assert found["networks"]["covering"] > 0
    assert 0 < groups["rtt"]["points"] == found["export"]["data_points"] <= 9
    assert found["vendor_units"]["points_per_minute"] == 2 * found["export"]["data_points"]
    # Without limits, each method of each subnet has a point. If all metrics are exported already, no group can add
    # points.
    all_rtts = {each["group"]: each for each in everything["groups"]}["rtt"]["points"]
    assert all_rtts == len(TALKS) * (4 + 2)
    assert all(each["more_points"] == 0 for each in everything["groups"])
    assert {each["options"] for each in everything["suggestions"]} >= {"--metrics rtt", "--metrics core"}


def test_the_text(ns: Namespace, capture: str) -> None:
    result = epping(ns, "cost", *SMALL, capture)
    assert (result.returncode, result.stderr) == (0, "")
    totals, export, groups, attributes, units, suggestions = result.stdout.split("\n\n")
    assert totals.splitlines() == [
        f"{capture}: 120 packets in 0.307 s",
        "networks: 24 answered, about 0 never answered",
        "answered networks: 24 exported individually, 0 in 0 covering prefixes, 0 on the overflow point",
    ]
    assert re.search(r"^per export, every 60 s +\d+ +1 +[\d.]+ kB +[\d.]+ kB$", export, re.MULTILINE)
    assert [line.split()[0] for line in groups.splitlines()[2:]] == list(GROUPS)
    assert re.search(r"^subnet +\d+  rtt \d+, traffic \d+", attributes, re.MULTILINE)
    assert re.search(r"^traffic_class +0  - +traffic \d+$", attributes, re.MULTILINE)
    assert re.search(r"^custom metrics, 5 per histogram +[\d,]+$", units, re.MULTILINE)
    assert suggestions.splitlines()[2].startswith("chosen settings")
    assert re.search(r"^--metrics rtt +\d+ +-[\d.]+% +\d+ +-[\d.]+% +[\d.]+ kB +-[\d.]+%$", suggestions, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "Missing option '-i' / '--interface', or '--lan', or '--mirror', or capture files."),
        (["-i", "lo", "file"], "Choose either interfaces or capture files."),
        (["-i", "nonesuch"], "there is no interface 'nonesuch': choose one of"),
        (["nothing.pcap"], "nothing.pcap: No such file or directory"),
        (["--metrics", "latency", "x"], "Invalid value for '--metrics'"),
        (["--duration", "0", "-i", "lo"], "Invalid value for '--duration'"),
    ],
)
def test_wrong_arguments(ns: Namespace, arguments: list[str], cause: str) -> None:
    assert said(epping(ns, "cost", *arguments)).startswith(cause)


def test_files_that_cannot_be_measured(ns: Namespace, capture: str, tmp_path: Path) -> None:
    """If a file cannot be measured, the other files are measured, and the failure is reported after the result."""
    result = epping(ns, "cost", *SMALL, "--format", "json", capture, "nothing.pcap")
    assert result.returncode == 1
    assert result.stderr == "otel-epping: nothing.pcap: No such file or directory\n"
    assert json.loads(result.stdout)["packets"] == 120
    (tmp_path / "untimed.pcap").write_bytes(pcap([Packet(0, TALKS[0].packets(*LINKS["ethernet"])[0].data, 60)]))
    assert said(epping(ns, "cost", *SMALL, str(tmp_path / "untimed.pcap"))).startswith("nothing was measured: ")
    (tmp_path / "silent.pcap").write_bytes(pcap([Packet(BEGIN_NS, bytes(60), 60)]))
    result = epping(ns, "cost", *SMALL, str(tmp_path / "silent.pcap"))
    assert "no network answered yet, so no round-trip time was measured" in result.stdout


def test_an_interface_without_traffic(ns: Namespace) -> None:
    result = epping(ns, "cost", "-i", "up1", "--duration", "1s", *SMALL)
    assert result.returncode == 1
    assert not result.stdout
    assert "otel-epping: no packet was seen on up1 in 1." in result.stderr
    assert "choose an interface with traffic" in result.stderr


class Cost:
    """A running `cost` command in the lab, without privileges."""

    def __init__(self, namespace: Namespace, folder: Path, *arguments: str) -> None:
        self._log = folder / "cost.log"
        with self._log.open("w") as log:
            self.process = namespace.popen(
                [*AGENT, "cost", *SMALL, "--format", "json", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment({}),
            )

    def measuring(self) -> None:
        def measures() -> bool:
            assert self.process.poll() is None, self._log.read_text()
            return "measuring" in self._log.read_text()

        eventually(measures, PATIENCE_S, "the command measures")
        assert_unprivileged(self.process, self._log.read_text())

    def result(self) -> Any:
        stdout, _ = self.process.communicate(timeout=PATIENCE_S)
        assert self.process.returncode == 0, self._log.read_text()
        return json.loads(stdout)


@pytest.fixture
def cost(lab: Lab, tmp_path: Path) -> Iterator[Callable[..., Cost]]:
    started: list[Cost] = []

    def start(*arguments: str) -> Cost:
        started.append(Cost(lab.router, tmp_path, "-i", WAN_INTERFACE, *arguments))
        started[-1].measuring()
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def check_live(found: Any) -> None:
    assert found["source"] == WAN_INTERFACE
    assert found["packets"] > 100
    assert found["networks"]["answered"] == found["networks"]["individual"] > 1
    assert sum(each["points"] for each in found["groups"]) == found["export"]["data_points"]
    groups = {each["group"]: each for each in found["groups"]}
    assert groups["rtt"]["points"] >= found["networks"]["answered"]
    assert "--metrics rtt" in {each["options"] for each in found["suggestions"]}


def test_real_traffic(lab: Lab, cost: Callable[..., Cost]) -> None:
    """The measurement has several intervals, and ends after its duration."""
    running = cost("--duration", "4s", "--interval", "1s")
    with talking(lab):
        found = running.result()
    check_live(found)
    assert 4 <= found["seconds"] < 6
    assert found["interval_seconds"] == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_measurement_early_and_an_agent_exports_the_same(
    lab: Lab, cost: Callable[..., Cost], agents: Callable[..., LabAgent], number: int
) -> None:
    """The agent and the command see the same packets. The agent makes one export, when it stops."""
    with Sink(namespace=lab.router) as sink:
        agent = agents("twin", sink.grpc_endpoint, "1h").watching()
        running = cost("--duration", "1h", "--metrics", "all")  # as the agent
        with talking(lab):
            converse(lab.router, turns=50)
        running.process.send_signal(number)
        found = running.result()
        assert agent.stop() == 0
        group_of = {metric.name: metric.group for metric in metric_table.METRICS}
        points: Counter[str] = Counter()
        for _, metric in sink.metrics():
            points[group_of[metric.name]] += len(getattr(metric, str(metric.WhichOneof("data"))).data_points)
    check_live(found)
    assert {each["group"]: each["points"] for each in found["groups"] if each["points"]} == points


def test_the_agent_logs_the_size_of_its_first_export(ns: Namespace, start: Callable[..., Agent]) -> None:
    with Sink(namespace=ns) as sink:
        agent = start("-i", "up0", "--interval", "200ms", *SMALL, OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        sink.wait_for(lambda sink: len(sink.requests) > 2, PATIENCE_S)
        first = sink.received[0]
        assert agent.stop() == 0
    points = sum(
        len(getattr(metric, str(metric.WhichOneof("data"))).data_points)
        for resource in first.request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
    (line,) = (line for line in agent.log.read_text().splitlines() if "one export" in line)
    assert f"one export: {points} data points of 0 subnets and covering prefixes, {first.size / 1e3:.1f} kB (" in line
    assert line.endswith(" kB with gzip): otel-epping cost shows what each group adds")


def test_the_agent_logs_no_bytes_for_an_exporter_of_another_kind(ns: Namespace, start: Callable[..., Agent]) -> None:
    agent = start("-i", "up0", "--interval", "200ms", *SMALL, OTEL_METRICS_EXPORTER="console")
    agent.wait_for("one export: ")
    assert agent.stop() == 0
    (line,) = (line for line in agent.log.read_text().splitlines() if "one export" in line)
    assert re.search(r"one export: \d+ data points of 0 subnets and covering prefixes: otel-epping cost shows", line)


def test_named_networks_and_groups(ns: Namespace, capture: str, public: Path) -> None:
    """Each suggestion keeps the attributes that say what a series stands for."""
    subnets = [f"{subnet},net {number},site {number % 2}" for number, subnet in enumerate(SUBNETS)]
    path = public / "networks.csv"
    path.write_text("\n".join(["cidr,name,site", *subnets, ""]))
    options = ("--format", "json", "--networks", str(path))
    found = {
        group_by: measured(epping(ns, "cost", *SMALL, *options, "--group-by", group_by, capture))
        for group_by in ("subnet", "name", "site")
    }
    assert [each["networks"]["answered"] for each in found.values()] == [len(SUBNETS), len(SUBNETS), 2]
    kept = {"subnet": "subnet,name,side", "name": "name,side", "site": "tag,side"}
    for group_by, result in found.items():
        suggested = [each["options"] for each in result["suggestions"]]
        assert f"--attributes rtt={kept[group_by]}" in suggested
    assert (
        "groups by site: 2 answered, " in epping(ns, "cost", *SMALL, *options[2:], "--group-by", "site", capture).stdout
    )
