# SPDX-License-Identifier: Apache-2.0
"""Chooses the agent's `service.instance.id`. A restart does not change the id, because a new id would start new series.

OpenTelemetry's semantic conventions (section "Service" of the resource conventions) require that no two running
instances have the same id. The conventions also define a UUID namespace for ids that are derived from stable
properties. The agent derives the id from the host, the network namespace and the selected interfaces. If two running
agents have the same properties, the second agent gets a random id.
"""

import socket
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from otel_epping.process.escaping import escaped

_SERVICE_INSTANCE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
_MACHINE_ID = Path("/etc/machine-id")


class InstanceId:
    """Reserves the id of an agent that watches the given interfaces.

    Use the object as a context manager. On exit, another agent can reserve the same id.

    value  the id
    """

    def __init__(self, interfaces: Iterable[str]) -> None:
        machine = ""
        # A container may have no machine id, or the same machine id as all containers of its image. But each container
        # has its own host name.
        with suppress(OSError):
            machine = escaped(_MACHINE_ID.read_bytes().strip())
        namespace = Path("/proc/self/ns/net").stat().st_ino
        stable = "/".join([machine, escaped(socket.gethostname()), str(namespace), *sorted(interfaces)])
        self.value = str(uuid.uuid5(_SERVICE_INSTANCE, stable))
        # The name of an abstract socket reserves the id: only one process in a network namespace can bind this name.
        self._reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._reservation.bind(f"\0otel-epping/instance/{self.value}")
        except OSError:
            self.value = str(uuid.uuid4())

    def __enter__(self) -> "InstanceId":
        return self

    def __exit__(self, *_: object) -> None:
        self._reservation.close()
