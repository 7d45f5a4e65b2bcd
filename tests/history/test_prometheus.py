# SPDX-License-Identifier: Apache-2.0
"""Tests the client of Prometheus' HTTP API with a server that gives prepared answers.

tests/integration/test_history.py tests the client with the real Prometheus.
"""

import json
import ssl
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.line import Line
from otel_epping.history.sources import prometheus, prometheus_api
from otel_epping.history.sources.kinds import source_size
from otel_epping.history.sources.prometheus import read_prometheus
from otel_epping.history.sources.prometheus_api import PrometheusApi
from otel_epping.history.sources.prometheus_names import names_of, split_labels
from otel_epping.otel import metric_table
from tests.support.certificates import Authority
from tests.support.servers import HttpServer

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

T0, STEP_S = 1_700_000_000, 60
RTT, IO = "epping_rtt_duration_seconds", "epping_network_io_bytes_total"
LABELS = {"epping_subnet": "192.0.2.0/24", "job": "otel-epping", "instance": "a"}


class Server:
    """Answers queries. `series` has the series of each metric. `answer`, a status and a body, replaces all answers."""

    def __init__(self) -> None:
        self.series: dict[str, list[dict[str, Any]]] = {}
        self.answer: tuple[int, str] | None = None
        self.delay_s = 0.0
        self.requests: list[tuple[str, dict[str, list[str]], dict[str, str]]] = []
        self.stopped = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(urlsplit(self.path).query)

            def do_POST(self) -> None:
                self.reply(self.rfile.read(int(self.headers["Content-Length"])).decode())

            def reply(self, query: str) -> None:
                given = parse_qs(query)
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append((urlsplit(self.path).path, given, headers))
                server.stopped.wait(server.delay_s)
                status, body = server.answer or (200, json.dumps(server.find(given)))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever)
        self._thread.start()

    def find(self, given: dict[str, list[str]]) -> dict[str, Any]:
        if "query" not in given:
            return {"status": "success", "data": list(self.series)}
        name = given["query"][0].split('"')[1]
        begin, end = (int(given[each][0]) for each in ("start", "end"))
        found = [
            {key: [p for p in each[key] if begin <= p[0] <= end] if key != "metric" else each[key] for key in each}
            for each in self.series[name]
        ]
        return {"status": "success", "data": {"resultType": "matrix", "result": found}, "warnings": ["slow"]}

    def close(self) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def values(*numbers: float | None, **labels: str) -> dict[str, Any]:
    """Returns a series with one value per step. At a step with None, the series has no value."""
    points = [[T0 + n * STEP_S, str(number)] for n, number in enumerate(numbers) if number is not None]
    return {"metric": LABELS | labels, "values": points}


def histogram(counts: dict[int, int], scale: int = 4, **others: Any) -> dict[str, Any]:
    base = 2 ** (2.0**-scale)
    buckets = [[0, repr(base**i), repr(base ** (i + 1)), str(n)] for i, n in counts.items()]
    return {"count": str(sum(counts.values())), "sum": str(0.01 * sum(counts.values())), "buckets": buckets} | others


def read(server: Server, steps: int, more: str = "") -> History:
    return read_prometheus([f"{server.url}?start={T0}&end={T0 + steps * STEP_S}&step=1m{more}"])


def octets(history: History) -> dict[str, int]:
    found = history.total().sum(metric_table.SUBNET_BYTES.name)
    assert found is not None
    return {line.label + line.agent: int(n) for line, n in zip(history.lines, found, strict=True)}


def test_values_are_differences(server: Server) -> None:
    labels = {"network_peer_as_number": "64500", "epping_network_tag_site": "B"}
    server.series = {
        IO: [
            values(100, 110, 130, epping_traffic_direction="to", **labels),
            values(None, 5, 7, epping_subnet="198.51.100.0/24"),
        ],
        "epping_flow_active": [values(3, 4, 5, **labels)],
        "epping_other_total": [values(1)],
    }
    history = read(server, 2)
    assert octets(history) == {"192.0.2.0/24": 30, "198.51.100.0/24": 7}
    assert history.lines[0] == Line(subnet="192.0.2.0/24", tags=(("site", "B"),), as_number=64500)
    active = history.total().sum(metric_table.ACTIVE_FLOWS.name)
    assert active is not None
    assert active.max() == 5
    assert history.total().seconds == 2 * STEP_S
    assert history.notes == [
        "series that began earlier than the source, so that earlier counts are not used: 1",
        f"{server.url} has no histograms of RTTs: it must store native histograms",
        f"{server.url} warns: slow",
    ]


def test_native_histograms(server: Server) -> None:
    found = [histogram({-100: 2}), histogram({-100: 3, -97: 4}), histogram({-50: 5, -49: 9}, 3)]
    points = [[T0 + n * STEP_S, each] for n, each in enumerate(found)]
    server.series = {RTT: [{"metric": LABELS, "histograms": points}]}
    total = read(server, 2).total().rtts()
    first, counts = total.buckets.run(0)
    assert (int(total.scales[0]), {first + i: int(n) for i, n in enumerate(counts) if n}) == (3, {-50: 3, -49: 9})
    assert int(total.sum_ns[0]) == 120_000_000


@pytest.mark.parametrize(
    "wrong",
    [
        {"buckets": [[0, "0.01", "0.025", "1"]]},
        {"buckets": [[3, "-0.001", "0.001", "1"]]},
        {"buckets": [[1, "1", "2", "1"]]},
        {"buckets": [[0, "1", "+Inf", "1"]]},
        {"count": "5"},
        {"buckets": [[0, "1", "2", "-1"]], "count": "-1"},
        {"buckets": [[0, "1", "2", "1e19"]], "count": "1e19"},
        {"buckets": [[0, "1", "2", "1e30"]], "count": "1e30"},
    ],
)
def test_other_histograms_are_not_used(server: Server, wrong: dict[str, Any]) -> None:
    points = [[T0 + n * STEP_S, histogram({0: n + 1}) | wrong] for n in range(3)]
    server.series = {RTT: [{"metric": LABELS, "histograms": points}], IO: [values(1, 2)]}
    history = read(server, 2)
    assert "data points that are not used, because they have buckets that cannot be converted: 3" in history.notes


def test_impossible_values_are_not_used(server: Server) -> None:
    server.series = {IO: [values(100, 200, *map(float, ("nan", "inf", "-1", "1e18")), 300)]}
    history = read(server, 6)
    assert octets(history) == {"192.0.2.0/24": 200}
    assert "data points that are not used, because they have an impossible count: 4" in history.notes


def test_numbers_that_are_no_numbers(server: Server) -> None:
    server.series = {IO: [{"metric": LABELS, "values": [[T0, "1"], [T0 + 60, "x"]]}]}
    with pytest.raises(EppingError, match="not of Prometheus' HTTP API: could not convert"):
        read(server, 2)


def test_without_native_histograms(server: Server) -> None:
    server.series = {IO: [values(1, 2)]}
    history = read(server, 1)
    assert octets(history) == {"192.0.2.0/24": 1}
    assert history.notes[1] == f"{server.url} has no histograms of RTTs: it must store native histograms"


def test_series_without_an_increase(server: Server) -> None:
    server.series = {IO: [values(1)]}
    with pytest.raises(EppingError, match="no increase of metrics of otel-epping"):
        read(server, 1)


def test_classic_histograms_are_not_used(server: Server) -> None:
    server.series = {f"{RTT}_bucket": [], IO: [values(1, 2)]}
    assert any(f"{RTT}_bucket is a classic histogram" in note for note in read(server, 2).notes)


def test_instances_are_agents(server: Server) -> None:
    server.series = {IO: [values(1, 2), values(1, 5, instance="b", cluster="x")]}
    assert octets(read(server, 2)) == {"192.0.2.0/24a": 1, "192.0.2.0/24b": 4}


def test_long_ranges_are_read_in_parts(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more histograms, there are fewer steps in a query. The first query has one step."""
    server.series = {IO: [values(*range(0, 500, 5))]}
    assert octets(read(server, 99)) == {"192.0.2.0/24": 495}
    assert sum(path.endswith("query_range") for path, _, _ in server.requests) == 1 + 5
    server.requests.clear()
    monkeypatch.setattr(prometheus, "_HISTOGRAMS_AT_ONCE", 20)
    points = [[T0 + n * STEP_S, histogram({-100: n + 1})] for n in range(100)]
    server.series = {
        RTT: [{"metric": LABELS | {"epping_subnet": f"{n}.0.0.0/24"}, "histograms": points} for n in range(5)]
    }
    done: list[int] = []
    history = read_prometheus([f"{server.url}?start={T0}&end={T0 + 99 * STEP_S}&step=1m"], done.append)
    assert history.total().rtts().counts.tolist() == [99] * 5
    assert sum(path.endswith("query_range") for path, _, _ in server.requests) == 1 + 25
    assert (sum(done), min(done)) == (source_size([server.url]), 0)


def test_requests(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_HEADERS", "X-Scope-OrgID=isp,authorization=Bearer%20abc")
    server.series = {IO: [values(1, 2)]}
    url = server.url.replace("//", "//user:p%40ss@")
    parameters = f"start={T0}&end={T0 + 60}&step=60s&match={{cluster=%22x%22}}"
    read_prometheus([f"prometheus+{url}/prometheus/?{parameters}"])
    (path, given, headers), (query_path, query, _), _ = server.requests
    assert (path, query_path) == ("/prometheus/api/v1/label/__name__/values", "/prometheus/api/v1/query_range")
    assert given["match[]"] == ['{__name__=~"epping[._].*",cluster="x"}']
    assert query["query"] == [f'{{__name__="{IO}",cluster="x"}}']
    assert headers["x-scope-orgid"] == "isp"
    assert headers["authorization"] == "Basic dXNlcjpwQHNz"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((200, "<html>"), r"not of Prometheus' HTTP API: check the path \(Mimir: /prometheus\)"),
        ((200, '{"status":"success","data":{"result":5}}'), "not of Prometheus' HTTP API"),
        ((200, '{"status":"error","errorType":"timeout","error":"too slow"}'), "timeout: too slow"),
        (
            (422, '{"status":"error","errorType":"execution","error":"too many samples"}'),
            r"too many samples \(HTTP 422",
        ),
        ((401, "no"), "HTTP 401 Unauthorized: set PROMETHEUS_HEADERS=authorization"),
        ((404, "no"), r"HTTP 404 Not Found: check the path \(Mimir: /prometheus\)"),
        ((500, "no"), "HTTP 500 Internal Server Error"),
        ((200, '{"status":"success","data":[]}'), "no metrics of otel-epping in the range of time: check start, end"),
        ((200, '{"status":"success","data":["up"]}'), "no metrics of otel-epping in the range of time"),
    ],
)
def test_errors(server: Server, answer: tuple[int, str], message: str) -> None:
    server.answer = answer
    with pytest.raises(EppingError, match=message):
        read(server, 2)


def test_a_slow_or_missing_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus_api, "_TIMEOUT_S", 0.2)
    server.delay_s = 5
    with pytest.raises(EppingError, match=r"no answer within 0.2 s"):
        read(server, 2)
    for url, cause in (("http://127.0.0.1:9", "Connection refused"), ("http://no.invalid", "(N|n)ame")):
        with pytest.raises(EppingError, match=cause):
            read_prometheus([url])


def test_tls(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EppingError, match=r"(?i)wrong.version.number"):
        read_prometheus([server.url.replace("http:", "HTTPS:")])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority = Authority(tmp_path)
    context.load_cert_chain(*authority.issue("server"))
    with HttpServer(lambda *_: (200, {}, b""), context) as secure:
        url = secure.url.replace("http:", "https:")
        with pytest.raises(EppingError, match=r"certificate verify failed.*: set SSL_CERT_FILE"):
            read_prometheus([url])
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.pem))
        urllib.request.install_opener(urllib.request.build_opener())  # the first opener keeps its certificates
        with pytest.raises(EppingError, match="HTTP 501"):  # this server has no GET
            read_prometheus([url])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("start=yesterday", "invalid time 'yesterday'"),
        ("step=0m", "invalid duration '0m'"),
        ("start=1h&end=2h", "start is not before end"),
        ("query=x", "unknown parameter query"),
        ("start", "URL of Prometheus is invalid"),
    ],
)
def test_invalid_urls(parameters: str, message: str) -> None:
    with pytest.raises(EppingError, match=message):
        PrometheusApi(f"http://localhost?{parameters}")


def test_times() -> None:
    api = PrometheusApi("http://localhost?start=2023-11-14T22:13:20Z&end=1700003600.5&step=2h")
    assert (api.start_s, api.end_s, api.step_s) == (1_700_000_000, 1_700_003_600, 7200)
    api = PrometheusApi("http://localhost?start=now-2d&end=1h")
    assert api.end_s - api.start_s == 47 * 3600
    assert PrometheusApi("http://localhost").end_s - PrometheusApi("http://localhost").start_s == 86_400


def test_names() -> None:
    assert RTT in names_of(metric_table.RTT)
    assert IO in names_of(metric_table.SUBNET_BYTES)
    assert "epping.network.io_bytes_total" in names_of(metric_table.SUBNET_BYTES)
    labels = {"__name__": "x", "otel_metric_overflow": "true", "epping.rtt.side": "internal", "otel_scope_version": "1"}
    attributes, others = split_labels(labels)
    assert attributes == {"otel.metric.overflow": True, "epping.rtt.side": "internal"}
    assert others == {}
