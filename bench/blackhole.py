# SPDX-License-Identifier: Apache-2.0
"""An OTLP/gRPC receiver that discards all metrics. The receiver runs in its own process, so the agent's CPU time
excludes the receiver.

The receiver process prints its port number, and then the size of each request in bytes.
"""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from otel_epping.lab.namespaces import Namespace, start

_SERVICE = "opentelemetry.proto.collector.metrics.v1.MetricsService"


class Blackhole:
    """A running receiver.

    `endpoint` is the URL of the receiver. `sizes` lists the uncompressed sizes of all requests so far, in bytes.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        self.endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        self.sizes: list[int] = []
        threading.Thread(target=lambda: self.sizes.extend(map(int, process.stdout or ())), daemon=True).start()


@contextmanager
def blackhole(namespace: Namespace | None = None) -> Iterator[Blackhole]:
    """Runs a receiver on 127.0.0.1 in a network namespace until the body of the `with` statement ends."""
    process = (namespace.popen if namespace else start)(
        [sys.executable, "-m", "bench.blackhole"], stdout=subprocess.PIPE
    )
    try:
        yield Blackhole(process)
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Receives requests until the process is killed."""
    answer = ExportMetricsServiceResponse().SerializeToString()

    def export(body: bytes, _: grpc.ServicerContext) -> bytes:
        print(len(body), flush=True)
        return answer

    handler: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(export)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, {"Export": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
