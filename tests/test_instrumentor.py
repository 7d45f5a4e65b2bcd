# SPDX-License-Identifier: Apache-2.0
"""Runs `opentelemetry-instrument` on a real application. The application's exporter also exports the RTTs of the
application's connections."""

import subprocess
import sys
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Point, Sink
from otel_epping.otel import metric_table, semconv
from tests.support.command import converse, environment
from tests.support.patience import PATIENCE_S

EXAMPLE = Path(__file__).parents[1] / "examples" / "instrumented.py"
INSTRUMENT = [str(Path(sys.executable).with_name("opentelemetry-instrument"))]

APPLICATION = """
import os, socket, sys, time
from opentelemetry import metrics

orders = metrics.get_meter("shop").create_counter("shop.orders")
def converse():
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        for _ in range(20):
            near.sendall(b"request"); far.recv(100); far.sendall(b"answer"); near.recv(100)
            time.sleep(0.01)
converse()
orders.add(1)
"""

# Python 3.12 and later print a warning if a process with several threads forks. The SDK starts a thread even without
# otel-epping, so the warning is expected.
FORKS = """
import warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
children = []
for _ in range(2):
    child = os.fork()
    if not child:
        orders.add(1)
        metrics.get_meter_provider().force_flush()
        sys.exit()
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
converse()
"""

STARTS = """
import subprocess
subprocess.run([sys.executable, "-c", "import time; time.sleep(0.1)"], check=True)
"""

UNINSTRUMENTS = """
from otel_epping.instrumentor import EppingInstrumentor
EppingInstrumentor().uninstrument()
converse()
converse()
"""


LOSES_ITS_LINKS = """
import contextlib
import socket
import time
from pathlib import Path
from otel_epping.kernel import libbpf

for file in Path("/proc/self/fdinfo").iterdir():
    with contextlib.suppress(FileNotFoundError):
        if "link_id" in file.read_text():
            libbpf.link_detach(int(file.name))
for hook in (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS):
    while libbpf.attached_count(socket.if_nametoindex("lo"), hook) == 0:
        time.sleep(0.05)
converse()
"""


CONFIG = """
file_format: "1.0"
resource: {{attributes: [{{name: service.name, value: from-a-file}}]}}
meter_provider:
  readers:
    - periodic: {{interval: 60000, exporter: {{otlp_grpc: {{endpoint: "{endpoint}", tls: {{insecure: true}}}}}}}}
instrumentation/development:
  python: {{otel_epping: {{interface: lo, prefix_v4: 8, sample_interval: 0}}}}
"""


def run(ns: Namespace, sink: Sink, code: str, *before: str, **settings: str) -> str:
    """Run an application, and return its standard error."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EPPING_INTERFACE": "lo",
        "OTEL_EPPING_SAMPLE_INTERVAL": "0",
        "OTEL_EPPING_MAX_SUBNETS": "64",
    }
    process = ns.popen(
        [*before, *INSTRUMENT, sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(variables | settings),
    )
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stdout) == (0, ""), stderr
    assert "Traceback" not in stderr, stderr
    return stderr


def rtts(sink: Sink) -> list[Point]:
    """Return the RTT points of the latest export that have the method tcp_timestamp and the side external."""
    points = [
        point
        for point in sink.points(metric_table.RTT.name)
        if point.attributes[semconv.METHOD] == "tcp_timestamp" and point.attributes[semconv.SIDE] == "external"
    ]
    return [point for point in points if point.point.time_unix_nano == max(p.point.time_unix_nano for p in points)]


def test_an_application_exports_the_rtts_of_its_network(ns: Namespace) -> None:
    with Sink(namespace=ns) as sink:
        assert run(ns, sink, APPLICATION) == ""
        (rtt,) = rtts(sink)
        assert rtt.point.count >= 10
        assert rtt.resource["service.name"] == "shop"
        assert [point.point.as_int for point in sink.points("shop.orders")] == [1]


def test_named_networks(ns: Namespace, public: Path) -> None:
    path = public / "networks.csv"
    path.write_text("cidr,name,site\n127.0.0.0/8,this host,here\n")
    settings = {"OTEL_EPPING_NETWORKS": str(path), "OTEL_EPPING_NETWORK_TAGS": "site"}
    with Sink(namespace=ns) as sink:
        assert run(ns, sink, APPLICATION, **settings) == ""
        (rtt,) = rtts(sink)
        assert rtt.attributes[semconv.NETWORK_NAME] == "this host"
        assert rtt.attributes[f"{semconv.NETWORK_TAG}.site"] == "here"
        assert semconv.SUBNET not in rtt.attributes


def test_an_invalid_file_of_named_networks_is_one_warning(ns: Namespace, public: Path) -> None:
    path = public / "networks.csv"
    path.write_text("cidr,name\nnonsense,this host\n")
    with Sink(namespace=ns) as sink:
        said = run(ns, sink, "print(end='')", OTEL_EPPING_NETWORKS=str(path))
        (line,) = said.splitlines()
        assert f"the network is not measured: {path}:2: " in line


def test_a_configuration_file(ns: Namespace, tmp_path: Path) -> None:
    """The endpoint, the resource and the settings of otel-epping come only from the configuration file."""
    path = tmp_path / "otel.yaml"
    with Sink(namespace=ns) as sink:
        path.write_text(CONFIG.format(endpoint=sink.grpc_endpoint))
        variables = {"OTEL_CONFIG_FILE": str(path), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
        said = run(ns, sink, APPLICATION, OTEL_EPPING_INTERFACE="up0", **variables)
        assert "not measured" not in said
        (rtt,) = rtts(sink)
        assert rtt.attributes[semconv.SUBNET] == "127.0.0.0/8"
        assert rtt.resource["service.name"] == "from-a-file"


@pytest.mark.parametrize(
    ("before", "settings", "warning"),
    [
        (("setpriv", "--bounding-set=-all", "--inh-caps=-all"), {}, "missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF"),
        ((), {"OTEL_EPPING_INTERFACE": "eth7"}, "there is no interface 'eth7'"),
        ((), {"OTEL_EPPING_INTERFACE": ""}, "no interface matches auto"),
        ((), {"OTEL_EPPING_SCALE": "9"}, "variable OTEL_EPPING_SCALE: 9 is not in the range"),
        ((), {"OTEL_EPPING_SCAL": "3"}, "there is no variable OTEL_EPPING_SCAL"),
    ],
    ids=["privileges", "interface", "no route", "value", "variable"],
)
def test_a_failed_start_of_the_measurement_logs_one_warning(
    ns: Namespace, before: tuple[str, ...], settings: dict[str, str], warning: str
) -> None:
    with Sink(namespace=ns) as sink:
        (line,) = run(ns, sink, APPLICATION, *before, **settings).splitlines()
        assert line.startswith("the network is not measured: ")
        assert warning in line
        assert [point.point.as_int for point in sink.points("shop.orders")] == [1]
        assert not sink.points(metric_table.RTT.name)


def test_forked_workers_do_not_export_the_network_again(ns: Namespace) -> None:
    """Tests a server that forks workers. Each worker exports its own metrics, and only the parent exports the
    metrics of the network."""
    with Sink(namespace=ns) as sink:
        run(ns, sink, APPLICATION + FORKS)
        exports_of_rtts = [
            request
            for request in sink.requests
            if any(
                metric.name == metric_table.RTT.name
                for resource in request.resource_metrics
                for scope in resource.scope_metrics
                for metric in scope.metrics
            )
        ]
        assert (
            len(exports_of_rtts) == 1
        )  # only the parent's last export contains RTTs; the exports of the two workers contain none
        (rtt,) = rtts(sink)
        assert rtt.point.count >= 20
        assert len(sink.points("shop.orders")) >= 3


def test_an_instrumented_subprocess_measures_nothing_again(ns: Namespace) -> None:
    with Sink(namespace=ns) as sink:
        assert run(ns, sink, APPLICATION + STARTS) == ""
        assert len(rtts(sink)) == 1


@pytest.mark.parametrize("hook", ["tcx", "clsact"])
def test_uninstrument_exports_and_detaches(ns: Namespace, hook: str) -> None:
    with Sink(namespace=ns) as sink:
        run(ns, sink, APPLICATION + UNINSTRUMENTS, OTEL_EPPING_HOOK=hook)
        (rtt,) = rtts(sink)
        assert 10 <= rtt.point.count <= 45  # only the first conversation gives RTTs, at most 40
    assert "clsact" not in ns.run("tc", "qdisc", "show", "dev", "lo")


def test_a_clsact_filter_is_removed_at_exit(ns: Namespace) -> None:
    with Sink(namespace=ns) as sink:
        assert run(ns, sink, APPLICATION + FORKS, OTEL_EPPING_HOOK="clsact") == ""
        assert rtts(sink)[0].point.count >= 20
    assert "clsact" not in ns.run("tc", "qdisc", "show", "dev", "lo")


def test_the_example(ns: Namespace) -> None:
    """The example runs unchanged. The requests of the example fail because there is no route. The failures and the RTTs
    are exported."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "",
        "OTEL_METRIC_EXPORT_INTERVAL": "500",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EPPING_INTERFACE": "lo",
        "OTEL_EPPING_SAMPLE_INTERVAL": "0",
    }
    with Sink(namespace=ns) as sink:
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.grpc_endpoint
        application = ns.popen(
            [*INSTRUMENT, sys.executable, str(EXAMPLE)], stderr=subprocess.PIPE, env=environment(settings)
        )
        sink.wait_for(lambda received: received.points("shop.requests"), PATIENCE_S)
        converse(ns)
        sink.wait_for(rtts, PATIENCE_S)
        assert application.poll() is None
        application.kill()
        assert "not measured" not in application.communicate()[1]
        (requests, *_) = sink.points("shop.requests")
        assert requests.attributes == {"outcome": "failed"}
        assert {point.resource["service.name"] for point in (requests, *rtts(sink))} == {"shop"}


def test_detached_links_are_attached_again(ns: Namespace) -> None:
    """Tests that the hook monitor also works in an application, although the monitor runs in a thread of the
    application."""
    with Sink(namespace=ns) as sink:
        said = run(ns, sink, APPLICATION + LOSES_ITS_LINKS)
        for direction in ("ingress", "egress"):
            assert f"lo {direction}: another process detached otel-epping's program: attached again" in said
        assert sum(point.point.count for point in rtts(sink)) >= 40
