# SPDX-License-Identifier: Apache-2.0
"""Tests the tables of one capture with a file of names and a database, line by line.

docs/networks.md and README.md show the tables.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.support.captures import BEGIN_NS, Packet, pcap
from tests.support.command import epping
from tests.support.databases import write_database
from tests.support.link_types import LINKS

pytestmark = pytest.mark.parallel

ROOT = Path(__file__).parents[2]
MS = 1_000_000
OPTIONS = ("--max-subnets", "1000", "--max-flows", "1000", "--methods", "tcp_handshake")
NAMES = """\
cidr,name,site,plan
203.0.113.0/28,Miller,north,gold
2001:db8:100::/56,Miller,north,gold
203.0.113.16/29,Bakery,south,silver
"""
PLACES = {
    "198.51.100.0/24": (64500, "CDN Inc", "US"),
    "192.0.2.0/24": (64501, "Hoster", "DE"),
    "2001:db8:f::/48": (64501, "Hoster", "DE"),
    "203.0.113.0/24": (64511, "ISP Ltd", "NL"),
    "2001:db8:100::/40": (64511, "ISP Ltd", "NL"),
}
# The customer and the server of each TCP connection, and the RTTs in ms between the observer and both of them.
CONNECTIONS = (
    ("203.0.113.2", "198.51.100.10", 4.5, 11.9),
    ("203.0.113.9", "198.51.100.11", 5.5, 12.1),
    ("2001:db8:100:7::2", "2001:db8:f::80", 4.7, 20.3),
    ("203.0.113.17", "198.51.100.10", 47.5, 12.5),
    ("203.0.113.22", "192.0.2.80", 42.1, 19.7),
    ("203.0.113.200", "192.0.2.80", 8.5, 20.9),
)
TABLES = {
    "": """\
network          AS             country  method         RTTs  min ms  p50 ms  p90 ms  p99 ms  max ms  packets  bytes
198.51.100.0/24  64500 CDN Inc  US       tcp_handshake     3  11.900  12.312  12.312  12.312  12.500        9    486
Miller           64511 ISP Ltd  NL       tcp_handshake     3   4.500   4.747   5.406   5.406   5.500        9    546
192.0.2.0/24     64501 Hoster   DE       tcp_handshake     2  19.700  19.829  20.707  20.707  20.900        6    324
Bakery           64511 ISP Ltd  NL       tcp_handshake     2  42.100  42.100  47.161  47.161  47.500        6    324
2001:db8:f::/48  64501 Hoster   DE       tcp_handshake     1  20.300  20.300  20.300  20.300  20.300        3    222
203.0.113.0/24   64511 ISP Ltd  NL       tcp_handshake     1   8.500   8.500   8.500   8.500   8.500        3    162
""",
    "name": """\
name     AS             country  method         RTTs  min ms  p50 ms  p90 ms  p99 ms  max ms  packets  bytes
no name  -              -        tcp_handshake     7   8.500  12.312  20.707  20.707  20.900       21  1,194
Miller   64511 ISP Ltd  NL       tcp_handshake     3   4.500   4.747   5.406   5.406   5.500        9    546
Bakery   64511 ISP Ltd  NL       tcp_handshake     2  42.100  42.100  47.161  47.161  47.500        6    324
""",
    "site": """\
site     method         RTTs  min ms  p50 ms  p90 ms  p99 ms  max ms  packets  bytes
no site  tcp_handshake     7   8.500  12.312  20.707  20.707  20.900       21  1,194
north    tcp_handshake     3   4.500   4.747   5.406   5.406   5.500        9    546
south    tcp_handshake     2  42.100  42.100  47.161  47.161  47.500        6    324
""",
    "asn": """\
AS             method         RTTs  min ms  p50 ms  p90 ms  p99 ms  max ms  packets  bytes
64511 ISP Ltd  tcp_handshake     6   4.500   5.406  47.161  47.161  47.500       18  1,032
64500 CDN Inc  tcp_handshake     3  11.900  12.312  12.312  12.312  12.500        9    486
64501 Hoster   tcp_handshake     3  19.700  20.707  20.707  20.707  20.900        9    546
""",
    "country": """\
country  method         RTTs  min ms  p50 ms  p90 ms  p99 ms  max ms  packets  bytes
NL       tcp_handshake     6   4.500   5.406  47.161  47.161  47.500       18  1,032
DE       tcp_handshake     3  19.700  20.707  20.707  20.707  20.900        9    546
US       tcp_handshake     3  11.900  12.312  12.312  12.312  12.500        9    486
""",
}


def handshake(number: int) -> Iterator[Packet]:
    """Return the three packets of a TCP handshake. `number` is an index into CONNECTIONS."""
    client, server, customer_ms, server_ms = CONNECTIONS[number]
    network = IPv6 if ":" in client else IP
    link, frame = LINKS["ethernet"]
    at_ms = 0.0
    for sender, receiver, flags, sequence, acknowledged, wait_ms in (
        (client, server, "S", 100, 0, server_ms),
        (server, client, "SA", 300, 101, customer_ms),
        (client, server, "A", 101, 301, 0.0),
    ):
        ports = (40_000 + number, 443) if sender == client else (443, 40_000 + number)
        segment = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=sequence, ack=acknowledged)
        data = frame(bytes(network(src=sender, dst=receiver) / segment))
        yield Packet(BEGIN_NS + number * 1000 * MS + round(at_ms * MS), data, len(data), link)
        at_ms += wait_ms


@pytest.fixture
def capture(tmp_path: Path) -> str:
    packets = [packet for number in range(len(CONNECTIONS)) for packet in handshake(number)]
    (tmp_path / "office.pcap").write_bytes(pcap(packets, nanoseconds=True))
    return str(tmp_path / "office.pcap")


@pytest.fixture
def files(tmp_path: Path, capture: str) -> list[str]:
    """The options for a file of names and a database, and the name of the capture."""
    (tmp_path / "networks.csv").write_text(NAMES)
    records = {
        prefix: {
            "autonomous_system_number": number,
            "autonomous_system_organization": organization,
            "country": {"iso_code": country},
        }
        for prefix, (number, organization, country) in PLACES.items()
    }
    database = write_database(tmp_path / "places.mmdb", records)
    return ["--networks", str(tmp_path / "networks.csv"), "--database", database, capture]


def group_by(group: str) -> tuple[str, ...]:
    return ("--group-by", group) if group else ()


@pytest.mark.parametrize("group", TABLES)
def test_each_line_of_the_table(ns: Namespace, files: list[str], group: str) -> None:
    result = epping(ns, "replay", *OPTIONS, *group_by(group), *files)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.partition("\n\n")[0].splitlines() == TABLES[group].splitlines()


def test_the_page_shows_the_names_and_the_tables() -> None:
    page = (ROOT / "docs/networks.md").read_text()
    for text in (NAMES, TABLES[""], TABLES["site"]):
        assert "".join(f"    {line}\n" for line in text.splitlines()) in page
    readme = (ROOT / "README.md").read_text()
    assert NAMES in readme
    assert TABLES[""] in readme


def exported(ns: Namespace, *arguments: str) -> dict[frozenset[tuple[str, Any]], tuple[Counter[Any], Counter[Any]]]:
    """Replay and export. For each network or group, return its buckets of RTTs, and its packets and bytes."""
    with Sink(namespace=ns) as sink:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        result = epping(ns, "replay", *OPTIONS, "--otlp", *arguments, settings=settings)
        assert (result.returncode, result.stderr) == (0, "")
        found: dict[frozenset[tuple[str, Any]], tuple[Counter[Any], Counter[Any]]] = {}
        for metric in (metric_table.RTT, metric_table.SUBNET_PACKETS, metric_table.SUBNET_BYTES):
            for one in sink.points(metric.name):
                labels = {key: value for key, value in one.attributes.items() if is_of_network(key)}
                buckets, counts = found.setdefault(frozenset(labels.items()), (Counter(), Counter()))
                if metric is metric_table.RTT:
                    positive = one.point.positive
                    # A histogram with few different RTTs has the scale of the program.
                    buckets.update(
                        {(one.point.scale, positive.offset + i): n for i, n in enumerate(positive.bucket_counts) if n}
                    )
                else:
                    counts[metric.name] += one.point.as_int
        return found


def is_of_network(key: str) -> bool:
    return key in metric_table.NETWORK_KEYS or key.startswith(f"{semconv.NETWORK_TAG}.")


def test_a_named_network_is_the_sum_of_its_prefixes(ns: Namespace, files: list[str], tmp_path: Path) -> None:
    """The capture is replayed with a name for all prefixes of a customer, and with a name for each prefix."""
    together = exported(ns, *files)
    lines = (line.split(",", 2) for line in NAMES.splitlines()[1:])
    (tmp_path / "each.csv").write_text("cidr,name\n" + "".join(f"{cidr},{name} {cidr}\n" for cidr, name, _ in lines))
    apart = exported(ns, "--networks", str(tmp_path / "each.csv"), *files[2:])
    summed: dict[frozenset[tuple[str, Any]], tuple[Counter[Any], Counter[Any]]] = {}
    for labels, values in apart.items():
        renamed = {key: value.split()[0] if key == semconv.NETWORK_NAME else value for key, value in labels}
        for total, value in zip(
            summed.setdefault(frozenset(renamed.items()), (Counter(), Counter())), values, strict=True
        ):
            total.update(value)
    assert len(apart) == len(together) + 1
    assert summed == together


@pytest.mark.parametrize("group", [group for group in TABLES if group])
def test_a_group_is_the_sum_of_its_networks(ns: Namespace, files: list[str], group: str) -> None:
    apart = exported(ns, "--network-tags", "site", *files)
    kept = {
        "asn": {semconv.AS_NUMBER, semconv.AS_ORGANIZATION},
        "country": {semconv.COUNTRY},
        "site": {f"{semconv.NETWORK_TAG}.site"},
        "name": {*metric_table.NETWORK_KEYS},
    }[group]
    summed: dict[frozenset[tuple[str, Any]], tuple[Counter[Any], Counter[Any]]] = {}
    for labels, values in apart.items():
        is_nameless = group == "name" and semconv.NETWORK_NAME not in dict(labels)
        pairs = frozenset((key, value) for key, value in labels if key in kept and not is_nameless)
        for total, value in zip(summed.setdefault(pairs, (Counter(), Counter())), values, strict=True):
            total.update(value)
    assert exported(ns, *group_by(group), *files) == summed
