# SPDX-License-Identifier: Apache-2.0
"""Runs a third-party OpenTelemetry collector, which receives OTLP requests and forwards the data to a `Sink`.

The third-party collector shares no code with our exporter, so a wrong request of our exporter is detected.
`collectors.py` chooses the collector.
"""

import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack, nullcontext
from typing import IO, Literal

from otel_epping.lab.namespaces import LabError, Namespace, start
from otel_epping.lab.otlp_sink import Sink

_START_TIMEOUT_S = 10.0

Protocol = Literal["grpc", "http"]


class CollectorProcess(ABC):
    """A collector that forwards to `sink` over the protocol `forward`; a context manager.

    Inside the `with` statement, the collector listens on 127.0.0.1 of `namespace`. The sink must also listen in
    `namespace`. Port 0 means any free port; `grpc_endpoint` and `http_endpoint` are the URLs for an exporter. `name` is
    the name of the collector's program. The collector is a child process in the foreground, and the kernel kills the
    collector when this process ends. The `with` statement raises LabError if the collector does not listen within 10 s.
    """

    name: str

    def __init__(
        self,
        sink: Sink,
        forward: Protocol = "grpc",
        grpc_port: int = 0,
        http_port: int = 0,
        namespace: Namespace | None = None,
    ) -> None:
        self._sink, self._forward, self._namespace = sink, forward, namespace
        with namespace.entered() if namespace else nullcontext():
            self.grpc_port = grpc_port or _free_port()
            self.http_port = http_port or _free_port()
        self.grpc_endpoint = f"http://127.0.0.1:{self.grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{self.http_port}/v1/metrics"

    @abstractmethod
    def _command(self) -> list[str]:
        """Returns the program and its arguments."""

    @abstractmethod
    def _environment(self) -> dict[str, str]:
        """Returns all environment variables of the process."""

    def _cure(self, last_lines: str) -> str:
        """Returns the fix for a known error, which the last lines of the collector's output show.

        Returns '' if the error is unknown.
        """
        return ""

    @property
    def _sink_port(self) -> int:
        return self._sink.grpc_port if self._forward == "grpc" else self._sink.http_port

    def __enter__(self) -> "CollectorProcess":
        with ExitStack() as undo:
            log = undo.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace"))
            process = (self._namespace.popen if self._namespace else start)(
                self._command(), stdout=log, stderr=subprocess.STDOUT, env=self._environment()
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
                    status = process.poll()
                    raise LabError(
                        f"{self.name} does not listen on port {port} (exit status {status}): "
                        f"{last_lines}{self._cure(last_lines)}"
                    )
                time.sleep(0.02)

    def _listens(self, port: int) -> bool:
        with self._namespace.entered() if self._namespace else nullcontext(), socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
