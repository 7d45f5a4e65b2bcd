# SPDX-License-Identifier: Apache-2.0
"""The official OpenTelemetry Collector and Prometheus as processes in the lab, on the ports that they always have."""

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
_COLLECTOR_HEALTH = "http://127.0.0.1:13133"
_PROMETHEUS = "http://127.0.0.1:9090"
_START_S = 60.0
_STOP_S = 20.0


def built(name: Literal["otelcol", "prometheus"]) -> str:
    """The path of the binary, which `make integration` has built before; else this takes minutes."""
    return subprocess.run([HERE / "build.sh", name], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def fetch(namespace: Namespace, request: urllib.request.Request | str) -> bytes:
    """The body of the answer, inside of the namespace. Raises OSError for any answer but a good one."""
    with namespace.entered(), urllib.request.urlopen(request, timeout=10) as answer:
        body: bytes = answer.read()
        return body


class Backend:
    """A process that is ready when `health` answers; a context manager that has it run from entry to `stop`, or exit.

    `log` is what it printed so far.
    """

    def __init__(self, namespace: Namespace, log: Path, health: str, argv: list[str], **variables: str) -> None:
        self.namespace = namespace
        self._log, self._health, self._argv, self._variables = log, health, argv, variables

    def __enter__(self) -> "Backend":
        with self._log.open("w") as log:
            # None of the variables that may be set here: they are for others.
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
        """Ends it as a service manager does: it has time to hand on what it has."""
        self._process.terminate()
        assert self._process.wait(_STOP_S) == 0, self.log

    def _ready(self) -> bool:
        try:
            fetch(self.namespace, self._health)
        except OSError:
            return False
        return True


def collector(namespace: Namespace, folder: Path) -> Backend:
    """The Collector; its files are in the folder."""
    config = HERE / "collector-pipelines.yaml"
    argv = [built("otelcol"), f"--config={config}"]
    return Backend(namespace, folder / "otelcol.log", _COLLECTOR_HEALTH, argv, FOLDER=str(folder))


def prometheus(namespace: Namespace, folder: Path, *options: str) -> Backend:
    """Prometheus as it is out of the box, but for its receiver of OTLP; its data is in the folder."""
    config = folder / "prometheus.yml"
    config.touch()
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
    """What Prometheus' HTTP API answers to an instant query."""
    parameters = urllib.parse.urlencode({"query": expression, "time": f"{time_ns / 1e9:.3f}"})
    result: list[dict[str, Any]] = _api(prometheus, f"query?{parameters}")["result"]
    return result


def _api(prometheus: Backend, path: str) -> dict[str, Any]:
    answer = json.loads(fetch(prometheus.namespace, f"{_PROMETHEUS}/api/v1/{path}"))
    assert answer["status"] == "success", answer
    assert not answer.get("warnings"), answer
    data: dict[str, Any] = answer["data"]
    return data


class Tap(Sink):
    """Keeps the requests of an agent, byte for byte as they were sent, and hands them on to the Collector by HTTP."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        super().__init__(namespace=namespace)

    def accept(self, body: bytes, headers: dict[str, str], protocol: Literal["grpc", "http"]) -> int:
        request = urllib.request.Request(COLLECTOR_HTTP, body, {"Content-Type": "application/x-protobuf"})
        fetch(self._namespace, request)
        return super().accept(body, headers, protocol)
