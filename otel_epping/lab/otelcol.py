# SPDX-License-Identifier: Apache-2.0
"""The official OpenTelemetry Collector, `otelcol`, beside the Python interpreter or in PATH."""

import json
import os
import shutil
import sys
from pathlib import Path

from otel_epping.lab.collector_process import CollectorProcess
from otel_epping.lab.namespaces import LabError

__all__ = ["Otelcol"]


class Otelcol(CollectorProcess):
    """The official Collector. Raises LabError when there is none.

    An export is answered once the sink has answered: the Collector holds nothing that would be lost with it.
    """

    name = "otelcol"

    def _command(self) -> list[str]:
        binary = find_otelcol()
        if binary is None:
            raise LabError("the OpenTelemetry Collector, otelcol, is not in PATH")
        exporter = {"grpc": "otlp_grpc", "http": "otlp_http"}[self._forward]
        config = {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": f"127.0.0.1:{self.grpc_port}"},
                        "http": {"endpoint": f"127.0.0.1:{self.http_port}"},
                    }
                }
            },
            "exporters": {
                exporter: {
                    "endpoint": f"http://127.0.0.1:{self._sink_port}",
                    "tls": {"insecure": True},
                    "sending_queue": {"enabled": False},
                    "retry_on_failure": {"initial_interval": "200ms"},
                }
            },
            "service": {
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"metrics": {"receivers": ["otlp"], "exporters": [exporter]}},
            },
        }
        return [binary, f"--config=yaml:{json.dumps(config)}"]

    def _environment(self) -> dict[str, str]:
        """Ours, without settings meant for an OpenTelemetry SDK, which the Collector would heed too."""
        return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


def find_otelcol() -> str | None:
    """Returns the path of the binary, or None."""
    beside = Path(sys.executable).parent
    return shutil.which("otelcol", path=f"{beside}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
