# SPDX-License-Identifier: Apache-2.0
"""Which agent this is (`service.instance.id`), the same at each start: a new one would begin all series anew.

The semantic conventions (resource, "Service") ask for an id that no two instances have at a time, and give the UUID
that ids made from something that lasts are to be made with. What lasts, and tells agents apart, is the host, its
network namespace and the interfaces that were asked for. Of two agents that share all of that, the second gets a random
one.
"""

import socket
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from otel_epping.process.text import escaped

_SERVICE_INSTANCE = uuid.UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
_MACHINE_ID = Path("/etc/machine-id")


class Identity:
    """The id of an agent for some interfaces. A context manager; the id is free again at its end, or the process'."""

    def __init__(self, interfaces: Iterable[str]) -> None:
        machine = ""
        with suppress(OSError):  # a container may have none, or that of its image: it has a name of its own, though
            machine = escaped(_MACHINE_ID.read_bytes().strip())
        namespace = Path("/proc/self/ns/net").stat().st_ino
        lasting = "/".join([machine, escaped(socket.gethostname()), str(namespace), *sorted(interfaces)])
        self.id = str(uuid.uuid5(_SERVICE_INSTANCE, lasting))
        self._holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._holder.bind(f"\0otel-epping/instance/{self.id}")
        except OSError:
            self.id = str(uuid.uuid4())

    def __enter__(self) -> "Identity":
        return self

    def __exit__(self, *_: object) -> None:
        self._holder.close()
