# SPDX-License-Identifier: Apache-2.0
"""A real OpenTelemetry collector, as small as they come: rotel (https://rotel.dev), from its Python package.

The package carries the collector as one binary. Its own Python wrapper runs it as a daemon with a fixed pid file; here
it runs in the foreground, as our child, and dies with us. It receives OTLP over gRPC and HTTP and forwards to a `Sink`,
so that what an exporter sends is judged by a receiver that others wrote.
"""

import importlib.util
import os
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import IO, Literal

from otel_epping.lab.namespaces import LabError, Namespace, start
from otel_epping.lab.sink import Sink

__all__ = ["Rotel"]

_START_TIMEOUT_S = 10.0


class Rotel:
    """The collector, forwarding to `sink` over `forward`; a context manager that has it listening from entry to exit.

    It listens on 127.0.0.1 of `namespace`, which must be the one in which the sink listens. A port of 0 picks a free
    one; `grpc_endpoint` and `http_endpoint` are the URLs an exporter wants. Raises LabError when the package is missing
    or the collector does not come up.
    """

    def __init__(
        self,
        sink: Sink,
        forward: Literal["grpc", "http"] = "grpc",
        grpc_port: int = 0,
        http_port: int = 0,
        namespace: Namespace | None = None,
    ) -> None:
        self._binary = _binary()
        self._namespace = namespace
        with namespace.entered() if namespace else nullcontext():
            self.grpc_port = grpc_port or _free_port()
            self.http_port = http_port or _free_port()
        self.grpc_endpoint = f"http://127.0.0.1:{self.grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{self.http_port}/v1/metrics"
        self._options = [
            f"--otlp-grpc-endpoint=127.0.0.1:{self.grpc_port}",
            f"--otlp-http-endpoint=127.0.0.1:{self.http_port}",
            "--exporter=otlp",
            f"--otlp-exporter-protocol={forward}",
            f"--otlp-exporter-endpoint=http://127.0.0.1:{sink.grpc_port if forward == 'grpc' else sink.http_port}",
            "--otlp-exporter-retry-initial-backoff=200ms",
            # A batch that is full is split, and the part that is left over forgets its resource (0.0.1a15).
            "--disable-batching",
        ]

    def __enter__(self) -> "Rotel":
        with ExitStack() as undo:
            log = undo.enter_context(tempfile.TemporaryFile("w+"))
            process = (self._namespace.popen if self._namespace else start)(
                [str(self._binary), "start", *self._options], stdout=log, stderr=subprocess.STDOUT, env=_environment()
            )
            undo.callback(process.wait)
            undo.callback(process.kill)
            self._wait_until_listening(process, log)
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _wait_until_listening(self, process: subprocess.Popen[str], log: IO[str]) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        for port in (self.grpc_port, self.http_port):
            while not self._listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    last_lines = " / ".join(log.read().splitlines()[-3:])
                    # The binary embeds Python, and wheels for Linux do not carry that library.
                    cure = " (apt-get install libpython3-dev)" if "libpython" in last_lines else ""
                    status = process.poll()
                    raise LabError(f"rotel does not listen on port {port} (exit status {status}): {last_lines}{cure}")
                time.sleep(0.02)

    def _listens(self, port: int) -> bool:
        with self._namespace.entered() if self._namespace else nullcontext(), socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0


def _binary() -> Path:
    package = importlib.util.find_spec("rotel")
    binary = Path(package.origin).parent / "rotel-agent" if package and package.origin else None
    if binary is None or not binary.exists():
        raise LabError("the collector rotel is not installed: pip install 'otel-epping[demo]'")
    return binary


def _environment() -> dict[str, str]:
    """Our environment without settings meant for somebody else's rotel."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ROTEL_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
