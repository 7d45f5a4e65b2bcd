# SPDX-License-Identifier: Apache-2.0
"""Tests how a running agent ends: after a signal, after kill -9, and with a collector that does not respond.

The agents export directly to the sink. The sink also records the headers of the requests.
"""

import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from otel_epping.kernel import libbpf
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import WAN_INTERFACE, Lab
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.process.signals import STOP_S
from tests.support.arrivals import INTERFACE_PACKETS, PACKETS, arrived, check_truth
from tests.support.lab_agent import Agent, eventually, figure, link_packets, quiet, talking
from tests.support.patience import PATIENCE_S

# If no collector listens, an exporter gives up a request after about 7 s. An agent may send two requests before it
# ends.
MOST_SHUTDOWN_S = 20.0


def test_signals_flush_the_last_interval_with_headers_and_names(lab: Lab, agents: Callable[..., Agent]) -> None:
    """The agent exports once per minute, and the test takes less than a minute.

    So the signal causes all exports that arrive.
    """
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
            # The agent may already have counted packets of neighbour discovery before the first call of link_packets().
            assert 0 <= one.interface_packets() - passed <= 30
            assert one.rtts > 50
            assert {p.resource["service.name"] for p in one.points[PACKETS]} == {"mine"}
            assert "service.version" not in one.points[PACKETS][0].resource
        for received in sink.received:
            assert received.headers["x-tenant"] == "lab 1"
            assert received.headers["authorization"] == "Bearer t"
        assert {received.protocol for received in sink.received} == {"grpc", "http"}


def attached(lab: Lab) -> list[int]:
    """Return the programs on both hooks of the router's interface."""
    with lab.router.entered():
        ifindex = socket.if_nametoindex(WAN_INTERFACE)
        hooks = (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)
        return [libbpf.attached_count(ifindex, hook) for hook in hooks]


def processes(lab: Lab) -> list[str]:
    """Return the command lines of the agents in the router's namespace."""
    with lab.router.entered():
        inode = Path("/proc/thread-self/ns/net").stat().st_ino
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_text().replace("\0", " ")
            if (entry / "ns/net").stat().st_ino == inode and re.search(r"otel_epping run|load/compiler", command):
                found.append(command)
        except OSError:
            continue
    return found


def test_kill_9_leaves_no_program_and_no_process(lab: Lab, agents: Callable[..., Agent]) -> None:
    assert attached(lab) == [0, 0]
    with Sink(namespace=lab.router) as sink:
        agent = agents("killed", sink.grpc_endpoint, "60s").watching()
        assert attached(lab) == [1, 1]
        assert len(processes(lab)) == 1
        agent.process.kill()
        assert agent.process.wait(PATIENCE_S) == -signal.SIGKILL
        eventually(lambda: attached(lab) == [0, 0], PATIENCE_S, "the kernel detached the program")
        assert processes(lab) == []


def test_shutdown_with_a_dead_collector_ends_in_time_and_logs_the_loss(lab: Lab, agents: Callable[..., Agent]) -> None:
    """One exporter fails, and the failure is logged once. The console exporter still delivers all points."""
    dead = "http://127.0.0.1:9"  # the port of the `discard` service, on which no process listens
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
        *_, last = agent.log.splitlines()
        assert last.startswith("otel-epping: the last interval was not delivered")
        # An exporter gives up after three pauses. The pauses take about 7 s in total, but their lengths are random. So
        # the exporter sometimes exceeds our deadline of 8 s.
        in_time = not last.endswith(f"no answer within {STOP_S:g} s")
        assert agent.log.count("export failed, counts stay pending") == in_time
    assert "succeed again" not in grpc.log
    (printed,) = json_documents(grpc.out)
    metrics = {
        metric["name"]: metric
        for resource in printed["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert set(metrics) >= {metric_table.RTT.name, PACKETS, INTERFACE_PACKETS, agent_metrics.READ_DURATION.name}
    sides: Counter[str] = Counter()
    for point in metrics[PACKETS]["data"]["data_points"]:
        sides[point["attributes"][semconv.SUBNET_DIRECTION]] += point["value"]
    assert sides["from"] == sides["to"] > 500


def json_documents(text: str) -> list[Any]:
    """Return the JSON documents in a text that contains several documents without separators."""
    documents, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        document, end = decoder.raw_decode(text)
        documents.append(document)
        text = text[end:]
    return documents
