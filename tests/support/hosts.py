# SPDX-License-Identifier: Apache-2.0
"""Two hosts for tests that count each packet, and helpers for the programs on the hooks of their interfaces.

hosts      two namespaces; `hosts.join(0)` adds veth0 to both
"""

import json
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import semconv


@dataclass
class Hosts:
    """Two network namespaces, joined by veth interfaces. The interfaces carry only the packets that a test sends."""

    here: Namespace
    there: Namespace

    def join(self, number: int) -> str:
        """Add a pair of interfaces, and return their name, which is the same in both namespaces."""
        name = f"veth{number}"
        self.here.ip(f"link add {name} type veth peer name {name} netns {self.there.path}")
        for host, namespace in ((1, self.here), (2, self.there)):
            other, mac = 3 - host, f"02:00:00:00:{number:02x}:0"
            namespace.ip(
                f"link set {name} address {mac}{host} up",
                f"address add 10.77.{number}.{host}/24 dev {name}",
                f"neighbour add 10.77.{number}.{other} lladdr {mac}{other} dev {name} nud permanent",
            )
        return name


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Namespace("here") as here, Namespace("there") as there:
        for namespace in (here, there):
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # otherwise the kernel would send IPv6 packets
        yield Hosts(here, there)


def udp_socket(namespace: Namespace, address: str, port: int) -> socket.socket:
    with namespace.entered():
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind((address, port))
    return one


def latest_total(sink: Sink, metric: str, interface: str = "") -> int:
    """Return the sum of the latest cumulative points of a metric, for all interfaces or for one interface."""
    points = sink.points(metric)
    latest_ns = max(one.point.time_unix_nano for one in points)
    wanted = {semconv.INTERFACE: interface}.items() if interface else {}.items()
    return sum(
        one.point.as_int for one in points if one.point.time_unix_nano == latest_ns and wanted <= one.attributes.items()
    )


# r0 = skb->len; if r0 == LENGTH goto drop; r0 = -1; exit; drop: r0 = 2; exit (linux/bpf.h)
def dropping(length: int) -> bytes:
    """Return a program that drops packets of this length (TC_ACT_SHOT) and passes all other packets (TC_ACT_UNSPEC)."""
    code = "6110000000000000 15000200%s b7000000ffffffff 9500000000000000 b700000002000000 9500000000000000"
    return bytes.fromhex(code % struct.pack("<I", length).hex())


def runs(fd: int) -> int:
    """Return how many packets a program has processed. The kernel counts the packets only if kernel.bpf_stats_enabled
    is 1."""
    shown = subprocess.run(
        ["bpftool", "-j", "prog", "show", "id", str(program_id(fd))], capture_output=True, text=True, check=True
    )
    return int(json.loads(shown.stdout).get("run_cnt", 0))


def program_id(fd: int) -> int:
    with open(f"/proc/self/fdinfo/{fd}") as info:  # noqa: PTH123
        return int(info.read().split("prog_id:")[1].split()[0])
