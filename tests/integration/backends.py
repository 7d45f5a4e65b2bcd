# SPDX-License-Identifier: Apache-2.0
"""The official OpenTelemetry Collector and Prometheus, run as processes in the lab on their default ports."""

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Literal

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink

HERE = Path(__file__).parent
COLLECTOR_GRPC = "http://127.0.0.1:4317"
COLLECTOR_HTTP = "http://127.0.0.1:4318/v1/metrics"
PROMETHEUS_OTLP = "http://127.0.0.1:9090/api/v1/otlp/v1/metrics"
PROMETHEUS_WRITE = "http://127.0.0.1:9090/api/v1/write"
_COLLECTOR_HEALTH = "http://127.0.0.1:13133"
_PROMETHEUS = "http://127.0.0.1:9090"
_START_S = 60.0
_STOP_S = 20.0


def built(name: Literal["otelcol", "prometheus", "promtool"]) -> str:
    """Return the path of the binary. `make integration` builds the binary before the tests. If there is no binary yet,
    this function builds the binary, which takes minutes."""
    return subprocess.run([HERE / "build.sh", name], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def fetch(namespace: Namespace, request: urllib.request.Request | str) -> bytes:
    """Send a request from inside the namespace, and return the body of the response. Raises OSError if the status of
    the response is an error."""
    with namespace.entered(), urllib.request.urlopen(request, timeout=10) as answer:
        body: bytes = answer.read()
        return body


class Backend:
    """A process that is ready when the URL `health` responds. The process starts when the `with` block is entered. The
    process ends when the block is left, or earlier when `stop` is called.

    `log` is the output of the process so far.
    """

    def __init__(self, namespace: Namespace, log: Path, health: str, argv: list[str], **variables: str) -> None:
        self.namespace = namespace
        self._log, self._health, self._argv, self._variables = log, health, argv, variables

    def __enter__(self) -> "Backend":
        with self._log.open("w") as log:
            # The process inherits no environment variables, because variables in the environment of the tests may be
            # meant for other programs.
            self._process = self.namespace.popen(self._argv, env=self._variables, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_S
        while not self._ready():
            assert self._process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text()

    def stop(self) -> None:
        """Ends the process with the signal that a service manager sends. The process then forwards its remaining
        data."""
        self._process.terminate()
        assert self._process.wait(_STOP_S) == 0, self.log

    def _ready(self) -> bool:
        try:
            fetch(self.namespace, self._health)
        except OSError:
            return False
        return True


def collector(namespace: Namespace, folder: Path) -> Backend:
    """Return the Collector, which writes its files to `folder`."""
    config = HERE / "collector-pipelines.yaml"
    argv = [built("otelcol"), f"--config={config}"]
    return Backend(namespace, folder / "otelcol.log", _COLLECTOR_HEALTH, argv, FOLDER=str(folder))


def example_collector(namespace: Namespace, folder: Path, config: Path, **variables: str) -> Backend:
    """Return the Collector with a configuration from examples/collector. The extension health_check is added to the
    configuration."""
    health = ("extensions: {health_check: {endpoint: 127.0.0.1:13133}}", "service: {extensions: [health_check]}")
    argv = [built("otelcol"), f"--config={config}", *(f"--config=yaml:{each}" for each in health)]
    return Backend(namespace, folder / "otelcol.log", _COLLECTOR_HEALTH, argv, **variables)


def prometheus(namespace: Namespace, folder: Path, *options: str, rules: str = "") -> Backend:
    """Return Prometheus with its default configuration and the OTLP receiver. Prometheus stores its data in `folder`.
    `rules` is the content of the file with the rules.
    """
    config = folder / "prometheus.yml"
    config.write_text("rule_files: [rules.yaml]" if rules else "")
    (folder / "rules.yaml").write_text(rules)
    argv = [
        built("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        "--web.listen-address=127.0.0.1:9090",
        "--web.enable-otlp-receiver",
        *options,
    ]
    return Backend(namespace, folder / "prometheus.log", f"{_PROMETHEUS}/-/ready", argv)


def query(prometheus: Backend, expression: str, time_ns: int) -> list[dict[str, Any]]:
    """Return the result of an instant query to Prometheus' HTTP API."""
    parameters = urllib.parse.urlencode({"query": expression, "time": f"{time_ns / 1e9:.3f}"})
    result: list[dict[str, Any]] = _api(prometheus, f"query?{parameters}")["result"]
    return result


def query_range(
    prometheus: Backend, expression: str, begin_ns: int, end_ns: int, step_s: float
) -> list[dict[str, Any]]:
    """Return the result of a range query to Prometheus' HTTP API."""
    times = {"start": f"{begin_ns / 1e9:.3f}", "end": f"{end_ns / 1e9:.3f}", "step": str(step_s)}
    parameters = urllib.parse.urlencode({"query": expression, **times})
    result: list[dict[str, Any]] = _api(prometheus, f"query_range?{parameters}")["result"]
    return result


def _api(prometheus: Backend, path: str) -> dict[str, Any]:
    answer = json.loads(fetch(prometheus.namespace, f"{_PROMETHEUS}/api/v1/{path}"))
    assert answer["status"] == "success", answer
    assert not answer.get("warnings"), answer
    data: dict[str, Any] = answer["data"]
    return data


class Tap(Sink):
    """Stores the requests of an agent byte for byte, and forwards the requests over HTTP, by default to the
    Collector.
    """

    def __init__(self, namespace: Namespace, target: str = COLLECTOR_HTTP) -> None:
        self._namespace, self._target = namespace, target
        super().__init__(namespace=namespace)

    def accept(self, body: bytes, headers: dict[str, str], protocol: Literal["grpc", "http"]) -> int:
        request = urllib.request.Request(self._target, body, {"Content-Type": "application/x-protobuf"})
        fetch(self._namespace, request)
        return super().accept(body, headers, protocol)
