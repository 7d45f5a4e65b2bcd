# SPDX-License-Identifier: Apache-2.0
"""otel-epping as a library: an application with a MeterProvider of its own also exports the latency of its network.

Run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, and with the interface to watch:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 python examples/library.py eth0
"""

import sys
import time

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig
from otel_epping.otel.pipeline import install


def main(interface: str, seconds: int = 60) -> None:
    """Does its own work for a while, and has the kernel count round-trip times meanwhile."""
    # What the application has already.
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())],
        resource=Resource.create({"service.name": "my-application"}),
    )
    requests = provider.get_meter("my_application").create_counter("my.requests")

    # What otel-epping adds: histograms that the kernel fills, exported with the application's resource.
    with Collector(KernelConfig(prefix_v4=24, prefix_v6=48)) as collector:
        reader = install(provider, OTLPMetricExporter(), collector, interval_s=10)
        collector.attachments.attach(interface)
        for _ in range(seconds):
            requests.add(1)
            time.sleep(1)
        collector.attachments.detach_all()
        reader.shutdown()  # exports the last interval; the provider's own shutdown would pass over it
    provider.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
