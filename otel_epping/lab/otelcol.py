# SPDX-License-Identifier: Apache-2.0
"""Runs the official OpenTelemetry Collector, `otelcol`, from the directory of the Python interpreter or from PATH."""

import json
import os
import shutil
import sys
from pathlib import Path

from otel_epping.lab.collector_process import CollectorProcess
from otel_epping.lab.namespaces import LabError

__all__ = ["Otelcol"]


class Otelcol(CollectorProcess):
    """The official Collector. The `with` statement raises LabError if the Collector is not installed.

    The Collector runs without a queue: the Collector forwards an export to the sink, waits for the sink's answer, and
    then answers the exporter. So no data are lost if the Collector stops.
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
        """Returns our environment without OTEL_* variables, because the Collector would use these SDK variables."""
        return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}


def find_otelcol() -> str | None:
    """Returns the path of the `otelcol` binary, or None if the binary is not found."""
    interpreter_folder = Path(sys.executable).parent
    return shutil.which("otelcol", path=f"{interpreter_folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}")
