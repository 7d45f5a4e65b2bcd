# SPDX-License-Identifier: Apache-2.0
"""Tests an agent with 100,000 named networks, whose file changes under traffic.

No packet and no RTT is lost or counted twice. Networks that did not change keep their series, and all others end.
"""

import ipaddress
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import DEFAULT_NETWORKS, Lab
from otel_epping.networks import files
from otel_epping.networks.network import Networks
from otel_epping.otel import metric_table, semconv
from tests.support.arrivals import DELTA, NOT_IP, PACKETS, Arrived, arrived
from tests.support.command import COMMAND, epping, said
from tests.support.command import Agent as Command
from tests.support.lab_agent import Agent, eventually, figure, link_packets, quiet, talking
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import NOBODY_UID

LINES = 100_000
INTERVAL = "400ms"
SETTINGS = {"OTEL_EPPING_MAX_SUBNETS": "4096", "OTEL_EPPING_NETWORK_TAGS": "site"}


def text(version: str) -> str:
    """Returns a file of names. `version` is part of the name of every second network, and of nothing else."""
    prefixes = [f"{each.subnet}" for each in DEFAULT_NETWORKS] + ["10.1.0.0/24", "10.2.0.0/24"]
    first, second = int(ipaddress.ip_address("11.0.0.0")), int(ipaddress.ip_address("3fff::"))
    others = (LINES - len(prefixes)) // 2
    prefixes += [f"{ipaddress.ip_address(first + (number << 4))}/28" for number in range(others)]
    prefixes += [f"{ipaddress.ip_address(second + (number << 64))}/64" for number in range(others)]
    lines = [
        f"{prefix},net {number}{version * (number % 2)},site {number % 50}" for number, prefix in enumerate(prefixes)
    ]
    return "\n".join(["cidr,name,site", *lines, ""])


def names(one: Arrived, at_ns: int | None = None) -> set[str]:
    """Returns the names of networks that have points, at all times or at the time of one export."""
    points = one.points.get(PACKETS, [])
    return {
        str(point.attributes[semconv.NETWORK_NAME])
        for point in points
        if semconv.NETWORK_NAME in point.attributes and at_ns in (None, point.point.time_unix_nano)
    }


def total(one: Arrived, name: str, value: Callable[[Any], int], **wanted: str) -> int:
    """Returns the total of a metric. A cumulative series that ended and began again is counted as two series."""
    latest: dict[Any, tuple[int, int]] = {}
    deltas = 0
    for point in one.points.get(name, []):
        if not wanted.items() <= point.attributes.items():
            continue
        if point.temporality == DELTA:
            deltas += value(point.point)
            continue
        series = (tuple(sorted(point.attributes.items())), point.point.start_time_unix_nano)
        latest[series] = max(latest.get(series, (0, 0)), (point.point.time_unix_nano, value(point.point)))
    return deltas + sum(count for _, count in latest.values())


def packets(one: Arrived) -> int:
    return total(one, PACKETS, lambda point: int(point.as_int))


def rtts(one: Arrived) -> int:
    return total(one, metric_table.RTT.name, lambda point: int(point.count))


def measured(one: Arrived) -> int:
    """Returns the number of RTTs according to the agent's own counters."""
    return total(one, metric_table.MEASUREMENTS.name, lambda point: int(point.as_int), **{semconv.OUTCOME: "measured"})


def check_nothing_is_lost(one: Arrived) -> None:
    """Each IP packet is counted for its source and for its destination. Each RTT is in one histogram."""
    assert packets(one) == 2 * one.interface_packets(without=NOT_IP) > 0
    assert rtts(one) == measured(one) > 0


def check_series(one: Arrived, lab: Lab) -> None:
    """The networks that did not change have had one start time. No two series have the same attributes."""
    starts: dict[str, set[int]] = defaultdict(set)
    exports: Counter[Any] = Counter()
    for point in one.points[PACKETS]:
        attributes = tuple(sorted(point.attributes.items()))
        exports[attributes, point.point.time_unix_nano] += 1
        if semconv.NETWORK_NAME in point.attributes and point.temporality != DELTA:
            starts[str(attributes)].add(point.point.start_time_unix_nano)
    assert max(exports.values()) == 1
    unchanged = {f"net {number}" for number in range(0, len(lab.networks) + 2, 2)}
    for series, times in starts.items():
        if any(f"'{name}'" in series for name in unchanged):
            assert len(times) == 1, series


def longest_pause_s(one: Arrived) -> float:
    times_ns = sorted({point.point.time_unix_nano for point in one.points[PACKETS]})
    return float(max(after - before for before, after in pairwise(times_ns)) / 1e9)


def replaced(path: Path, content: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(content)
    new.chmod(0o644)
    new.rename(path)


def test_half_of_100_000_networks_change_under_traffic(lab: Lab, agents: Callable[..., Agent], public: Path) -> None:
    path = public / "networks.csv"
    versions = [text(version) for version in ("", " b", " c", "")]
    path.write_text(versions[0])
    quiet(lab)
    with Sink(namespace=lab.router) as sink:
        settings = SETTINGS | {"OTEL_EPPING_NETWORKS": str(path)}
        preference = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
        both = [
            agents(name, sink.grpc_endpoint, INTERVAL, **settings, **{preference: name})
            for name in ("cumulative", "delta")
        ]
        for agent in both:
            agent.watching()
            assert f"{LINES} named networks with {LINES} prefixes in {path}" in agent.log
        quiet(lab)
        before = link_packets(lab.router)
        last = len(lab.networks) + 1  # the number of the network of the host `legacy`; it is odd
        for number, version in enumerate(("", " b", " c", "")):
            with talking(lab):
                if number:
                    replaced(path, versions[number])
                if number % 2:
                    for agent in both:
                        agent.process.send_signal(signal.SIGHUP)
                for agent in both:
                    wanted = f"net {last}{version}"

                    def is_exported(agent: Agent = agent, wanted: str = wanted) -> bool:
                        points = arrived(sink, agent.name).points.get(PACKETS, [])
                        latest_ns = max((point.point.time_unix_nano for point in points), default=0)
                        return wanted in names(arrived(sink, agent.name), latest_ns)

                    eventually(is_exported, 2 * PATIENCE_S, f"{agent.name} exports {wanted}: {agent.log}")
        passed = link_packets(lab.router) - before
        options = ("--max-subnets", SETTINGS["OTEL_EPPING_MAX_SUBNETS"], "--networks", str(path))
        checked = epping(lab.router, "check", *options)
        allowed = sum(map(float, re.findall(r"([0-9.]+) MiB in the agent", checked.stdout)))
        memory_kb = {agent.name: agent.peak_kb for agent in both}
        for agent in both:
            assert agent.stop() == 0, agent.log
    for agent in both:
        one = arrived(sink, agent.name)
        check_nothing_is_lost(one)
        assert one.interface_packets() >= passed
        check_series(one, lab)
        current = {f"net {number}" for number in range(last + 1)}
        seen = names(one)
        assert current <= seen
        assert {name.rpartition(" ")[0] for name in seen - current} <= {
            f"net {number}" for number in range(1, last + 1, 2)
        }
        # After the last change, the ended networks have no points in a cumulative export.
        if agent.name == "cumulative":
            points = one.points[PACKETS]
            assert names(one, max(point.point.time_unix_nano for point in points)) <= current
        times = [float(each) for each in re.findall(r"read \S+ again in ([0-9.]+) s", agent.log)]
        assert len(times) >= 3
        figure(f"{agent.name}: seconds to change {LINES} networks", times)
        figure(f"{agent.name}: longest time between two exports", longest_pause_s(one))
        figure(f"{agent.name}: greatest memory in MiB, and what check states", (memory_kb[agent.name] // 1024, allowed))
        assert memory_kb[agent.name] / 1024 < allowed
        figure(f"{agent.name}: packets and RTTs", (packets(one), rtts(one)))
        assert agent.log.count("ERROR") == 0, agent.log
        assert longest_pause_s(one) < 5


def test_100_000_networks_are_loaded_in_2_seconds(ns: Namespace, tmp_path: Path) -> None:
    """The time is CPU time, because other processes may use the CPUs."""
    path = tmp_path / "networks.csv"
    config = EppingConfig(max_subnets=64, max_flows=64)
    with ns.entered(), EppingCollector(config, networks=Networks()) as collector:
        for version in ("", " b"):
            path.write_text(text(version))
            began_s = time.process_time()
            collector.change_networks(files.read(str(path)))
            took_s = time.process_time() - began_s
            figure(f"CPU time in s to load {LINES} networks", took_s)
            assert took_s < 2


def test_a_file_that_cannot_be_used_leaves_the_old_names_in_use(
    ns: Namespace, start: Callable[..., Command], public: Path
) -> None:
    path, settings, good = (
        public / "networks.csv",
        public / "settings.yaml",
        "cidr,name,site\n10.1.0.0/28,Miller,north\n",
    )
    path.write_text(good)
    settings.write_text(f"interface: lo\nnetworks: {path}\n")
    agent = start("--config", str(settings), OTEL_METRICS_EXPORTER="console")
    agent.wait_for(f"1 named networks with 1 prefixes in {path}")

    def reload(text: str, words: str) -> None:
        settings.write_text(text)
        agent.process.send_signal(signal.SIGHUP)
        agent.wait_for(words)

    unchanged = "the named networks are unchanged: "
    path.write_text(f"{good}10.2.0.0/99,Bakery,north\n")
    agent.wait_for(f"{unchanged}{path}:3: ")
    path.unlink()
    agent.wait_for(f"{unchanged}{path} does not exist: ")
    path.write_text(f"{good}10.2.0.0/28,Bakery,north\n")
    path.chmod(0o600)
    agent.wait_for(f"{unchanged}cannot read {path}: Permission denied: ")
    path.chmod(0o644)
    agent.wait_for("2 named networks with 2 prefixes (new: 1, ended: 0)")
    assert agent.log.read_text().count("ERROR") == 3  # one line for each fault

    other = public / "other.yaml"
    reload(f"interface: lo\nnetworks: {other}\n", f"{unchanged}{other} does not exist: ")
    other.write_text("- {cidr: 10.1.0.0/28, name: Miller, site: north}\n")
    agent.wait_for("1 named networks with 1 prefixes (new: 0, ended: 1)")
    reload("interface: lo\n", "take effect after a restart: networks")
    reload(
        f"interface: lo\nnetworks: {other}\ngroup_by: asn\n", "settings are unchanged: group_by is asn, but there is no"
    )
    reload(f"interface: lo\nnetworks: {path}\ngroup_by: site\n", "take effect after a restart: group_by")
    agent.wait_for("2 named networks with 2 prefixes (new: 1, ended: 0)", 2)
    assert agent.stop() == 0


def test_names_for_an_agent_without_names_need_a_restart(
    ns: Namespace, start: Callable[..., Command], public: Path
) -> None:
    path, settings = public / "networks.csv", public / "settings.yaml"
    settings.write_text("interface: lo\n")
    agent = start("--config", str(settings), OTEL_METRICS_EXPORTER="console")
    path.write_text("cidr,name\n10.1.0.0/28,Miller\n")
    settings.write_text(f"interface: lo\nnetworks: {path}\n")
    agent.process.send_signal(signal.SIGHUP)
    agent.wait_for("take effect after a restart: networks")
    assert agent.stop() == 0


def test_a_file_that_the_agent_cannot_read_later_is_an_error_at_the_start(ns: Namespace, public: Path) -> None:
    """The agent drops its capabilities before it reads the file. So even root needs the permission to read the file."""
    path = public / "networks.csv"
    path.write_text("cidr,name\n10.1.0.0/28,Miller\n")
    path.chmod(0o600)
    refusal = f"cannot read {path}: Permission denied: "
    assert said(epping(ns, "run", "-i", "lo", "--networks", str(path))).startswith(refusal)
    os.chown(path, int(NOBODY_UID), -1)
    refused = epping(ns, "run", "-i", "lo", "--networks", str(path), command=COMMAND)
    assert said(refused).startswith(refusal)
