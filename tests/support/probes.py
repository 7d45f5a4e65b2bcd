# SPDX-License-Identifier: Apache-2.0
"""Sends requests to the health probes of an agent. The agent must be started with the options PROBED."""

import http.client
import json
from contextlib import closing
from typing import Any

from otel_epping.lab.namespaces import Namespace

PORT = 8080
PROBED = ("--health-port", str(PORT))


def ask(ns: Namespace, path: str) -> tuple[int, dict[str, Any]]:
    """Return the HTTP status and the results of the checks."""
    with ns.entered(), closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=2)) as connection:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, json.load(response)["checks"]
