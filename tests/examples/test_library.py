# SPDX-License-Identifier: Apache-2.0
"""Runs the library example unchanged. The example exports its own metrics and the metrics of otel-epping. The two sets
of metrics have separate resources."""

import os
import subprocess
import sys
from pathlib import Path

from otel_epping.lab.collectors import collector
from otel_epping.lab.otlp_sink import Sink
from otel_epping.lab.topology import DEFAULT_NETWORKS, WAN_INTERFACE, Lab
from otel_epping.otel import metric_table, semconv
from tests.support.patience import PATIENCE_S

LIBRARY = Path(__file__).parents[2] / "examples" / "library.py"
OWN = "my.requests"


def test_library_adds_network_metrics_to_an_application() -> None:
    networks = DEFAULT_NETWORKS[:3]
    with Lab(networks) as lab, Sink(namespace=lab.router) as sink, collector(sink, namespace=lab.router) as forwarder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = forwarder.grpc_endpoint
        lab.serve()
        lab.talk(lab.client)
        application = lab.router.popen(
            [sys.executable, str(LIBRARY), WAN_INTERFACE, "3"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        output = application.communicate(timeout=PATIENCE_S)
        assert application.returncode == 0, output
        assert output == ("", "")
        sink.wait_for(
            lambda received: {OWN, metric_table.RTT.name} <= {metric.name for _, metric in received.metrics()}, 5
        )

        own = sink.points(OWN)
        rtts = [point for point in sink.points(metric_table.RTT.name) if point.attributes[semconv.SIDE] == "external"]
        assert own[-1].point.as_int == 3
        assert {point.attributes[semconv.SUBNET] for point in rtts} == {str(network.subnet) for network in networks}
        for point in rtts:
            assert point.point.count > 0
        assert {point.resource["service.name"] for point in (*own, *rtts)} == {"my-application"}
        # The application's counter is exported only once, because the added pipeline does not export this counter.
        assert [point.point.as_int for point in own] == [3]
