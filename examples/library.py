# SPDX-License-Identifier: Apache-2.0
"""Uses otel-epping as a library. An application with its own MeterProvider also exports the RTTs of its network.

Run this program as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON. The argument is the interface to watch:

    OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 python examples/library.py eth0
"""

import sys
import time

from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource

from otel_epping import EppingCollector, EppingConfig, install


def main(interface: str, seconds: int = 60) -> None:
    """Does the application's work for `seconds`. Meanwhile, the kernel measures and counts round-trip times (RTTs)."""
    # The application's own metrics.
    provider = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())],
        resource=Resource.create({"service.name": "my-application"}),
    )
    requests = provider.get_meter("my_application").create_counter("my.requests")

    # otel-epping exports histograms that the kernel fills. These histograms have the application's resource.
    with EppingCollector(EppingConfig(prefix_v4=24, prefix_v6=48)) as collector:
        reader = install(provider, OTLPMetricExporter(), collector, interval_s=10)
        collector.attach(interface)
        for _ in range(seconds):
            requests.add(1)
            time.sleep(1)
        collector.detach(interface)
        reader.shutdown()  # exports the last interval (provider.shutdown() does not shut down `reader`)
    provider.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]))
