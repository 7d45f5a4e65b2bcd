# SPDX-License-Identifier: Apache-2.0
"""Measures the CPU time and memory for building and encoding an export, and the number and size of its requests.

The maps are filled (fill_maps.py). Each subnet has new packet counts and about seven data points. Each combination of a
number of subnets and a method runs in its own process. Only the method gRPC includes the time for reading the maps.
readout.py measures the reading alone. The methods are:

    ours   The exporter builds, encodes and discards each request before it builds the next request.
    SDK    The SDK builds the data points of all subnets. The official encoder encodes all data points into one request.
    gRPC   Like ours, but the official exporter sends each request to a receiver in another process. The receiver
           acknowledges each request. The CPU time is the time of our process for reading, building, encoding and
           sending.

The first export encodes the attributes of each subnet, and all later exports use these encoded attributes. The time is
the median time of all exports except the first export. The memory is the peak during the first export.
"""

import statistics
from collections.abc import Generator
from contextlib import closing

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData, ResourceMetrics, ScopeMetrics
from opentelemetry.sdk.resources import Resource

from bench import fill_maps, fresh_process
from bench.blackhole import blackhole
from bench.fresh_process import Usage
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from otel_epping.kernel.collector import EppingCollector
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.exporter import ProducerExporter
from otel_epping.otel.metric_selection import ALL, MetricSelection
from otel_epping.otel.otlp.encoder import BatchEncoder
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits

OURS, SDK, GRPC = "ours", "SDK", "gRPC"

_SIZES = (1_000, 10_000, 50_000, 100_000)
_MOST_BY_SDK = 50_000
_EXPORTS = 5
_BUSY_S = 2.0  # after this CPU time in total, no further export is measured


Exports = Generator[tuple[Usage, list[int]], None, None]

_EVERYTHING = ExportSettings(MetricSelection((ALL,)), Limits(max_series=None))


def _data(metrics: list[ScopeMetrics]) -> MetricsData:
    return MetricsData([ResourceMetrics(Resource({"service.name": "otel-epping"}), metrics, "")])


def _ours(collector: EppingCollector) -> Exports:
    producer = EppingMetricProducer(collector, settings=_EVERYTHING)
    encoder = BatchEncoder(producer.config)
    theirs = _data([]).resource_metrics
    while True:
        producer.read()
        with fresh_process.measure_usage() as usage:
            sizes = [len(encoder.request(theirs, batch).body) for batch in producer.batches()]
        yield usage, sizes


def _sdk(collector: EppingCollector) -> Exports:
    producer = EppingMetricProducer(collector, settings=_EVERYTHING)
    producer.read()
    while True:
        with fresh_process.measure_usage() as usage:
            sizes = [len(encode_metrics(_data([producer.produce()])).SerializeToString())]
        usage.cpu_s -= producer.read_seconds  # produce() also reads the maps
        yield usage, sizes


def _grpc(collector: EppingCollector) -> Exports:
    with blackhole() as receiver:
        exporter = ProducerExporter(
            OTLPMetricExporter(endpoint=receiver.endpoint, insecure=True),
            collector,
            _EVERYTHING,
            forward_sdk=False,
        )
        while True:
            receiver.sizes.clear()
            with fresh_process.measure_usage() as usage:
                result = exporter.export(_data([]), timeout_millis=120_000)
            assert result is MetricExportResult.SUCCESS
            yield usage, list(receiver.sizes)


_WAYS = {OURS: _ours, SDK: _sdk, GRPC: _grpc}


def measure(subnets: int, ways: list[str]) -> list[dict[str, float]]:
    """Returns the time, the memory, the bytes and the number of requests of an export, for each method."""
    with EppingCollector(fill_maps.config_for(subnets)) as collector:
        fill_maps.prepare(collector, subnets)
        return [_measure(collector, subnets, way) for way in ways]


def _measure(collector: EppingCollector, subnets: int, way: str) -> dict[str, float]:
    with closing(_WAYS[way](collector)) as exports:
        first, sizes = next(exports)
        later: list[Usage] = []
        while len(later) < _EXPORTS and not (later and sum(usage.cpu_s for usage in later) > _BUSY_S):
            fill_maps.add_rtts(collector.program.maps)
            later.append(next(exports)[0])
    return {
        "cpu_s": statistics.median(usage.cpu_s for usage in later),
        "wall_s": statistics.median(usage.wall_s for usage in later),
        "first_cpu_s": first.cpu_s,
        "peak_mb": first.peak_mb,
        "later_peak_mb": max(usage.peak_mb for usage in later),
        "bytes": sum(sizes),
        "requests": len(sizes),
    }


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures all numbers of subnets and all methods. Other programs are not measured."""
    columns = [Heading("subnets", ",d"), Heading("method"), Heading("CPU s", ".3f"), Heading("wall s", ".3f")]
    columns += [
        Heading("first export, CPU s", ".3f"),
        Heading("first export, added MB", ".1f"),
        Heading("later exports, added MB", ".1f"),
    ]
    table = Table("Build and encode an export", [*columns, Heading("bytes", ",d"), Heading("requests", ",d")])
    figures = {}
    for subnets in (100,) if tiny else _SIZES:
        ways = [way for way in _WAYS if way != SDK or subnets <= _MOST_BY_SDK]
        progress(f"export: {subnets:,} subnets, {', '.join(ways)}")
        # Each method runs in its own process. With `tiny` all methods run in one process, because the figures of a tiny
        # run have no meaning.
        for some in [ways] if tiny else [[way] for way in ways]:
            for way, found in zip(some, fresh_process.call(measure, subnets=subnets, ways=some), strict=True):
                table.add(subnets, way, *found.values())
                if way == OURS:
                    figures[f"export.{subnets}_s"] = found["cpu_s"]
                    figures[f"export.{subnets}_mb"] = found["peak_mb"]
    return Result([table], figures)
