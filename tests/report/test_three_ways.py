# SPDX-License-Identifier: Apache-2.0
"""Tests that a capture has the same numbers in a report, in the table of `replay`, in the requests that an OTLP
receiver gets, and in a report about these requests.

The expected numbers are computed from the received data points, by the definitions in docs/statistics.md. The real
captures are in ../shared/pcaps. The tests make one more capture, so there is a capture without this folder too.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from google.protobuf.json_format import MessageToJson
from scapy.layers.inet import IP, UDP

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric import Metric
from tests.support.captures import BEGIN_NS, Packet, pcap
from tests.support.command import epping
from tests.support.conversation import Conversation, rows_of
from tests.support.link_types import LINKS
from tests.test_project import ROOT

pytestmark = pytest.mark.parallel

CAPTURES = sorted((ROOT.parent / "shared" / "pcaps").glob("*.pcap"))
SMALL = ("--max-subnets", "1000", "--max-flows", "4096")
SCALE = 4
TIMES = ("minimum", "p50", "p90", "p99", "maximum")
UNANSWERED = "never answered"


class Expected(NamedTuple):
    """Expected numbers, by their names in the JSON of a report; and the scale of the histogram that was received."""

    numbers: dict[str, float]
    scale: int


class Exported:
    """The numbers that a receiver has.

    rtts      the statistics of each network and method
    networks  the statistics of each network
    packets, octets  of each network, and of UNANSWERED
    retransmitted    segments of each network and direction
    """

    def __init__(self, sink: Sink) -> None:
        points = {self._key(each.attributes): each.point for each in sink.points(metric_table.RTT.name)}
        self.rtts = {key: self._statistics([point], 0.5, 0.9, 0.99) for key, point in points.items()}
        self.packets = self._sums(sink, metric_table.SUBNET_PACKETS)
        self.octets = self._sums(sink, metric_table.SUBNET_BYTES)
        self.retransmitted = self._sums(sink, metric_table.RETRANSMITTED, semconv.SUBNET_DIRECTION)
        by_class = self._sums(sink, metric_table.SUBNET_PACKETS, semconv.SUBNET_DIRECTION, semconv.TRAFFIC_CLASS)
        self.networks: dict[str, Expected] = {}
        for network in {name for name, *_ in self.packets} - {UNANSWERED}:
            tcp = {
                way: [by_class[network, way, each] for each in ("tcp_timestamp", "tcp_other")] for way in ("from", "to")
            }
            whole = self._statistics([point for (name, _), point in points.items() if name == network], 0.5, 0.95)
            found = whole.numbers
            del found["maximum"]
            for way, segments in tcp.items():
                found[f"loss_{way}"] = self.retransmitted[network, way] / sum(segments) if any(segments) else math.nan
            everything = sum(map(sum, tcp.values()))
            found["coverage"] = sum(each[0] for each in tcp.values()) / everything if everything else math.nan
            self.networks[network] = whole

    def _key(self, attributes: Mapping[str, Any], *others: str) -> tuple[str, ...]:
        name = UNANSWERED if attributes.get(semconv.UNANSWERED) else attributes[semconv.SUBNET]
        return str(name), *(str(attributes.get(each)) for each in others or (semconv.METHOD,))

    def _sums(self, sink: Sink, metric: Metric, *attributes: str) -> Counter[tuple[str, ...]]:
        sums: Counter[tuple[str, ...]] = Counter()
        for each in sink.points(metric.name):
            sums[self._key(each.attributes, *attributes)[: len(attributes) + 1]] += each.point.as_int
        return sums

    def _statistics(self, points: list[Any], *quantiles: float) -> Expected:
        """Return the statistics of the sum of histograms, which has their lowest scale."""
        scale = min((each.scale for each in points), default=SCALE)
        buckets: Counter[int] = Counter()
        for each in points:
            for index, number in enumerate(each.positive.bucket_counts, each.positive.offset):
                buckets[index >> each.scale - scale] += number
        samples = sum(each.count for each in points)
        assert samples == buckets.total()
        if not samples:
            names = ("minimum", "maximum", *(f"p{q * 100:.0f}" for q in quantiles))
            return Expected({"samples": 0} | dict.fromkeys(names, math.nan), scale)
        least, greatest = min(each.min for each in points), max(each.max for each in points)
        found: dict[str, float] = {"samples": samples, "minimum": least, "maximum": greatest}
        for q in quantiles:
            rank, seen = math.ceil(q * samples), 0
            for index in sorted(buckets):
                seen += buckets[index]
                if seen >= rank:
                    break
            found[f"p{q * 100:.0f}"] = min(max(2 ** ((index + 0.5) / 2**scale), least), greatest)
        return Expected(found, scale)


def made_by_the_test(path: Path) -> Path:
    """Write a capture with conversations over IPv4 and IPv6, and with a host that never answers."""
    link, make = LINKS["ethernet"]
    question = make(bytes(IP(src="10.1.0.1", dst="12.0.0.1") / UDP(sport=1, dport=2)))
    packets = [Packet(BEGIN_NS, question, len(question), link)]
    for talk in (Conversation(1), Conversation(2, 6), Conversation(3)):
        packets += talk.packets(link, make)
    path.write_bytes(pcap(sorted(packets)))
    return path


def tables_of(ns: Namespace, source: Path) -> Any:
    """Return all tables of a report, by section."""
    result = epping(ns, "report", *SMALL, str(source), "-o", "-", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    sections = json.loads(result.stdout)["sections"]
    return {name: {key: each["rows"] for key, each in section["tables"].items()} for name, section in sections.items()}


def check(row: Mapping[str, Any], expected: Expected, *, has_scale: bool) -> None:
    """Compare numbers of a table. None in a table is unknown. A column without any value is left out.

    An exported histogram with many buckets has a lower scale. If the table does not have this scale, a quantile may
    differ by half a bucket.
    """
    found = {name: math.nan if row.get(name) is None else row[name] for name in expected.numbers}
    error = 1e-12 if has_scale or expected.scale == SCALE else 2 ** (0.5 / 2**expected.scale) - 1
    assert found == pytest.approx(expected.numbers, rel=error, nan_ok=True)
    assert found["samples"] == expected.numbers["samples"]


@pytest.mark.parametrize("capture", [*CAPTURES, None], ids=[*(path.stem for path in CAPTURES), "made by the test"])
def test_a_report_has_the_numbers_of_replay_and_of_the_export(
    ns: Namespace, tmp_path: Path, capture: Path | None
) -> None:
    capture = capture or made_by_the_test(tmp_path / "made.pcap")
    with Sink(namespace=ns) as sink:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        replayed = epping(ns, "replay", *SMALL, "--otlp", "--metrics", "all", str(capture), settings=settings)
    received = tmp_path / "received.jsonl"
    received.write_text("".join(f"{MessageToJson(each, indent=None)}\n" for each in sink.requests))
    exported = Exported(sink)
    assert exported.packets
    in_report: dict[tuple[str, str], list[str]] = {}
    for source in (capture, received):
        tables = tables_of(ns, source)
        by_method, networks = (tables["worst_networks"][key] for key in ("methods", "networks"))
        assert {(row["network"], row["method"]) for row in by_method} == exported.rtts.keys()
        for row in by_method:
            key = row["network"], row["method"]
            check(row, exported.rtts[key], has_scale=source is received)
            assert (row["packets"], row["bytes"]) == (exported.packets[key[:1]], exported.octets[key[:1]])
            if source is capture:
                in_report[key] = [f"{row['samples']:,}", *(f"{row[name] * 1e3:.3f}" for name in TIMES)]
        assert {row["network"] for row in networks} == exported.networks.keys()
        for row in networks:
            expected = exported.networks[row["network"]]
            if source is received and not exported.retransmitted:
                # No data point says whether no segment was retransmitted, or whether the metric is not exported.
                del expected.numbers["loss_to"], expected.numbers["loss_from"]
            check(row, expected, has_scale=source is received)
        reasons = {row["reason"]: row["number"] for row in tables["coverage"].get("not_measured", [])}
        assert reasons.get("packets of networks that never answered", 0) == exported.packets[UNANSWERED,]
    printed = {(name.partition(" (")[0], method): cells for (name, method), cells in rows_of(replayed.stdout).items()}
    assert {key: cells[:6] for key, cells in printed.items() if key[1] != "-"} == in_report
    traffic = {name: cells[-2:] for (name, method), cells in printed.items() if len(cells) > 6 or method == "-"}
    assert traffic == {
        name: [f"{exported.packets[name,]:,}", f"{exported.octets[name,]:,}"] for (name,) in exported.packets
    }
