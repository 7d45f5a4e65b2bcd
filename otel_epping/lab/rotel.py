# SPDX-License-Identifier: Apache-2.0
"""Runs rotel (https://rotel.dev), a small OpenTelemetry collector, from its Python package.

The package contains the collector as one binary. The Python wrapper of the package is not used, because the wrapper
runs the binary as a daemon with a fixed pid file. The binary embeds Python, so each wheel is for one Python version;
there is no wheel for Python 3.14.
"""

import importlib.util
import os
import sysconfig
from pathlib import Path

from otel_epping.lab.collector_process import CollectorProcess
from otel_epping.lab.namespaces import LabError

__all__ = ["Rotel"]


class Rotel(CollectorProcess):
    """The collector rotel. The `with` statement raises LabError if the package is not installed."""

    name = "rotel"

    def _command(self) -> list[str]:
        binary = find_rotel()
        if binary is None:
            raise LabError("the collector rotel is not installed: pip install 'otel-epping[demo]'")
        return [
            str(binary),
            "start",
            f"--otlp-grpc-endpoint=127.0.0.1:{self.grpc_port}",
            f"--otlp-http-endpoint=127.0.0.1:{self.http_port}",
            "--exporter=otlp",
            f"--otlp-exporter-protocol={self._forward}",
            f"--otlp-exporter-endpoint=http://127.0.0.1:{self._sink_port}",
            "--otlp-exporter-retry-initial-backoff=200ms",
            # rotel 0.0.1a15 splits a full batch, and the second part has no resource attributes.
            "--disable-batching",
        ]

    def _environment(self) -> dict[str, str]:
        """Returns our environment without ROTEL_* variables; adds the folder of libpython to LD_LIBRARY_PATH."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("ROTEL_")}
        folders = [sysconfig.get_config_var("LIBDIR"), ours.get("LD_LIBRARY_PATH")]
        return ours | {"LD_LIBRARY_PATH": ":".join(filter(None, folders))}

    def _cure(self, last_lines: str) -> str:
        # The Linux wheels do not contain libpython.
        return " (apt-get install libpython3-dev)" if "libpython" in last_lines else ""


def find_rotel() -> Path | None:
    """Returns the path of rotel's binary, or None if the package is not installed."""
    package = importlib.util.find_spec("rotel")
    binary = Path(package.origin).parent / "rotel-agent" if package and package.origin else None
    return binary if binary and binary.exists() else None
