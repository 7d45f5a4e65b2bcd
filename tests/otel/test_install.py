# SPDX-License-Identifier: Apache-2.0
"""Tests install() next to an application's provider.

The last interval is exported, no matter how the application ends.
"""

import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table, semconv
from otel_epping.otel.install import install
from tests.support.patience import PATIENCE_S
from tests.support.prog_test_run import MS, Bench
from tests.support.recorder import CONFIG, PACKETS, Conversation, exporter, packets_fed


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A program that no other test uses. Readers of this program start without counts."""
    with closing(Bench(CONFIG)) as bench:
        yield bench


def test_our_metrics_are_exported_if_the_provider_has_no_data(bench: Bench, sink: Sink) -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reader = install(provider, exporter(sink), bench.collector, 60)
    Conversation(bench).record([5 * MS])
    assert reader.force_flush()
    assert len(sink.points(metric_table.RTT.name)) == 1
    reader.shutdown()
    provider.shutdown()


def test_the_applications_resource_is_used_and_its_metrics_are_exported_once(bench: Bench, sink: Sink) -> None:
    theirs = PeriodicExportingMetricReader(exporter(sink), float("inf"))
    resource = Resource.create({"service.name": "shop"})
    provider = MeterProvider(metric_readers=[theirs], resource=resource, shutdown_on_exit=False)
    provider.get_meter("shop").create_counter("shop.orders").add(3)
    reader = install(provider, exporter(sink), bench.collector, 60)
    Conversation(bench).record([5 * MS] * 10)
    assert provider.force_flush()
    assert reader.force_flush()
    (orders,) = sink.points("shop.orders")
    assert orders.point.as_int == 3
    (rtt,) = sink.points(metric_table.RTT.name)
    assert rtt.point.count == 10
    assert rtt.resource == orders.resource
    assert rtt.resource["service.name"] == "shop"
    reader.shutdown()
    provider.shutdown()


def test_the_readers_shutdown_exports_the_last_interval(bench: Bench, sink: Sink) -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reader = install(provider, exporter(sink), bench.collector, 60)
    Conversation(bench).record([5 * MS] * 10)
    assert not sink.requests
    reader.shutdown()
    (rtt,) = sink.points(metric_table.RTT.name)
    assert rtt.point.count == 10
    requests = len(sink.requests)
    provider.shutdown()
    assert len(sink.requests) == requests


APPLICATION = """
import sys
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel.install import install
from tests.support.prog_test_run import MS, Bench
from tests.support.recorder import CONFIG, Conversation

bench = Bench(CONFIG)
reader = install(MeterProvider(), OTLPMetricExporter(sys.argv[1], insecure=True), bench.collector, 60)
Conversation(bench).record([5 * MS] * 10)
if "close" in sys.argv:
    bench.close()
if "shutdown" in sys.argv:
    reader.shutdown()
"""


@pytest.mark.parametrize("end", ["", "shutdown", "close"])
def test_the_last_interval_is_exported_however_an_application_ends(sink: Sink, end: str) -> None:
    """The application just ends, or first shuts the reader down, or first closes the collector."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", APPLICATION, sink.grpc_endpoint, *end.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    (rtt,) = sink.points(metric_table.RTT.name)
    assert rtt.point.count == 10
    assert done.stderr == ""


FORKING = """
import multiprocessing, os, sys, threading, time
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from otel_epping.otel.install import install
from tests.support.prog_test_run import MS, Bench
from tests.support.recorder import CONFIG, Conversation

endpoint, way = sys.argv[1:]
exporter = lambda: OTLPMetricExporter(endpoint, preferred_temporality={Histogram: AggregationTemporality.DELTA})
bench = Bench(CONFIG)
bench.collector.attachments.attach("lo")
provider = MeterProvider(metric_readers=[PeriodicExportingMetricReader(exporter(), 100)])  # the application's own
provider.get_meter("shop").create_counter("shop.orders").add(3)
reader = install(provider, exporter(), bench.collector, 0.1)
provider.get_meter("shop").create_counter("shop.sales").add(3)  # also for the reader that install() made

def work():
    time.sleep(0.5)
    provider.force_flush()
    reader.force_flush()

def fork():
    if not os.fork():
        work()
        if way == "close":
            bench.close()
        if way == "thread":  # the child has no main thread to end
            os._exit(0)
        sys.exit(0)  # with the handlers of atexit

if way == "multiprocessing":
    workers = [multiprocessing.get_context("fork").Process(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    Conversation(bench).record([5 * MS] * 10)
    for worker in workers:
        worker.join()
else:
    for _ in range(3):
        if way == "thread":
            thread = threading.Thread(target=fork)
            thread.start()
            thread.join()
        else:
            fork()
    Conversation(bench).record([5 * MS] * 10)
    for _ in range(3):
        os.wait()
print(bench.collector.attachments.state())
reader.shutdown()
"""


@pytest.mark.parametrize("way", ["fork", "close", "thread", "multiprocessing"])
def test_forked_workers_do_not_export_our_metrics(sink: Sink, way: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    # From Python 3.12 on, fork() gives a warning if the process has several threads. The SDK starts threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, sink.http_endpoint, way]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout == "{'lo': True}\n"
    rtts = [point for point in sink.points(metric_table.RTT.name) if point.attributes[semconv.SUBNET] != "127.0.0.0/24"]
    assert sum(point.point.count for point in rtts) == 10
    ours = {point.resource["service.instance.id"] for point in rtts}
    assert len(ours) == 1
    assert {point.resource["service.instance.id"] for point in sink.points(agent_metrics.MEMORY_USAGE.name)} == ours
    assert len({point.resource["service.instance.id"] for point in sink.points("shop.orders")}) == 4


def test_flushes_from_three_threads_export_each_packet_once(bench: Bench, sink: Sink) -> None:
    provider = MeterProvider(shutdown_on_exit=False)
    reader = install(provider, exporter(sink, AggregationTemporality.DELTA), bench.collector, 60)
    stop = threading.Event()

    def flush() -> None:
        while not stop.is_set():
            reader.force_flush()

    threads = [threading.Thread(target=flush) for _ in range(3)]
    for thread in threads:
        thread.start()
    conversations = [Conversation(bench) for _ in range(20)]
    draw = random.Random(3)
    rtts_ns: Counter[str] = Counter()
    for _ in range(40):
        for conversation in conversations:
            drawn = [round(2 ** draw.uniform(20, 29)) for _ in range(5)]
            conversation.record(drawn)
            rtts_ns[conversation.subnet] += sum(drawn)
    stop.set()
    for thread in threads:
        thread.join()
    reader.shutdown()
    fed = packets_fed(bench)
    assert len(sink.requests) > 3
    directions: Counter[Any] = Counter()
    for point in sink.points(PACKETS):
        directions[point.attributes.get(semconv.SUBNET_DIRECTION)] += point.point.as_int
    # The packets of the clients, which never answer, are in the aggregate.
    assert directions.total() == 2 * fed
    assert max(directions["from"], directions["to"]) <= fed / 2 + 20
    counted: Counter[Any] = Counter()
    sums: Counter[Any] = Counter()
    for point in sink.points(metric_table.RTT.name):
        counted[point.attributes[semconv.SUBNET]] += point.point.count
        sums[point.attributes[semconv.SUBNET]] += round(point.point.sum * 1e9)
    assert counted == {conversation.subnet: 200 for conversation in conversations}
    assert sums == rtts_ns
    for series in {tuple(sorted(p.attributes.items())): None for p in sink.points(metric_table.RTT.name)}:
        times = [
            (p.point.start_time_unix_nano, p.point.time_unix_nano)
            for p in sink.points(metric_table.RTT.name)
            if tuple(sorted(p.attributes.items())) == series
        ]
        assert times == sorted(times)
    provider.shutdown()
