# SPDX-License-Identifier: Apache-2.0
"""From a reading to the bytes of its requests: CPU time, memory on top, bytes and requests.

The maps are filled (filled.py); all subnets have something to tell, about seven points each. Each size and way is
measured in a process of its own, after the reading, which readout.py measures:

    ours   as the exporter does it: a request is built, encoded and dropped before the next one
    SDK    the SDK's own way: data points of everything, encoded by the official encoder in one
    gRPC   ours, through the official exporter to a receiver in another process, acknowledged; the CPU time is that of
           our process alone: reading, building, encoding, sending

The first export makes what is kept of a subnet, its attributes; the time is that of later ones (the median), and memory
is the peak of the first.
"""

import statistics
from collections.abc import Generator
from contextlib import closing

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource

from bench import filled, isolated
from bench.blackhole import blackhole
from bench.isolated import Spent
from bench.programs import Contender
from bench.report import Column, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.otlp.encoder import Writer
from otel_epping.otel.producer import EppingMetricProducer

OURS, SDK, GRPC = "ours", "SDK", "gRPC"

_SIZES = (1_000, 10_000, 50_000, 100_000)
_MOST_BY_SDK = 50_000
_EXPORTS = 5
_BUSY_S = 2.0  # what takes longer is done once


Exports = Generator[tuple[Spent, list[int]], None, None]


def _data(metrics: list[ScopeMetrics]) -> MetricsData:
    return MetricsData([ResourceMetrics(Resource({"service.name": "otel-epping"}), metrics, "")])


def _ours(collector: EppingCollector) -> Exports:
    producer = EppingMetricProducer(collector)
    writer = Writer(producer)
    theirs = _data([]).resource_metrics
    while True:
        producer.read()
        with isolated.spending() as spent:
            sizes = [len(writer.request(theirs, batch).body) for batch in producer.batches()]
        yield spent, sizes


def _sdk(collector: EppingCollector) -> Exports:
    producer = EppingMetricProducer(collector)
    producer.read()
    while True:
        with isolated.spending() as spent:
            sizes = [len(encode_metrics(_data([producer.produce()])).SerializeToString())]
        spent.cpu_s -= producer.read_seconds  # produce() reads, too
        yield spent, sizes


def _grpc(collector: EppingCollector) -> Exports:
    with blackhole() as receiver:
        exporter = ProducerExporter(
            OTLPMetricExporter(endpoint=receiver.endpoint, insecure=True), collector, forward_sdk=False
        )
        while True:
            receiver.sizes.clear()
            with isolated.spending() as spent:
                result = exporter.export(_data([]), timeout_millis=120_000)
            assert result is MetricExportResult.SUCCESS
            yield spent, list(receiver.sizes)


_WAYS = {OURS: _ours, SDK: _sdk, GRPC: _grpc}


def measure(subnets: int, ways: list[str]) -> list[dict[str, float]]:
    """CPU seconds, MB, bytes and requests of each way; the first one's memory is that of nothing else."""
    with EppingCollector(filled.room_for(subnets)) as collector:
        filled.prepare(collector, subnets)
        return [_measure(collector, subnets, way) for way in ways]


def _measure(collector: EppingCollector, subnets: int, way: str) -> dict[str, float]:
    with closing(_WAYS[way](collector)) as exports:
        first, sizes = next(exports)
        later: list[Spent] = []
        while len(later) < _EXPORTS and not (later and sum(spent.cpu_s for spent in later) > _BUSY_S):
            filled.touch(collector.program.maps, subnets)
            later.append(next(exports)[0])
    return {
        "cpu_s": statistics.median(spent.cpu_s for spent in later),
        "wall_s": statistics.median(spent.wall_s for spent in later),
        "first_cpu_s": first.cpu_s,
        "peak_mb": first.peak_mb,
        "later_peak_mb": max(spent.peak_mb for spent in later),
        "bytes": sum(sizes),
        "requests": len(sizes),
    }


def run(others: list[Contender], tiny: bool = False) -> Result:
    """All sizes and ways. Nobody is beside."""
    columns = [Column("subnets", ",d"), Column("way"), Column("CPU s", ".3f"), Column("wall s", ".3f")]
    columns += [Column("the first, CPU s", ".3f"), Column("peak MB on top", ".1f"), Column("later", ".1f")]
    table = Table("Build and encode", [*columns, Column("bytes", ",d"), Column("requests", ",d")])
    figures = {}
    for subnets in (100,) if tiny else _SIZES:
        ways = [way for way in _WAYS if way != SDK or subnets <= _MOST_BY_SDK]
        progress(f"export: {subnets:,} subnets, {', '.join(ways)}")
        # Each in a process of its own, unless it doesn't matter.
        for some in [ways] if tiny else [[way] for way in ways]:
            for way, found in zip(some, isolated.call(measure, subnets=subnets, ways=some), strict=True):
                table.add(subnets, way, *found.values())
                if way == OURS:
                    figures[f"export.{subnets}_s"] = found["cpu_s"]
                    figures[f"export.{subnets}_mb"] = found["peak_mb"]
    return Result([table], figures)
