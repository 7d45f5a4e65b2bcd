# SPDX-License-Identifier: Apache-2.0
"""Tests the client of Prometheus' HTTP API with a server that gives prepared answers.

tests/integration/test_history.py tests the client with the real Prometheus.
"""

import json
import socket
import ssl
import threading
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
from otel_epping.history.sources.kinds import read_sources, source_size
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
        self.location = ""
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
                if server.location:
                    self.send_header("Location", server.location)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,))
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


@pytest.mark.parametrize(
    ("parts", "repeated"),
    [
        ([(0, 6), (0, 6)], 12),  # two strategies are in use
        ([(0, 3), (2, 6)], 2),  # the strategy was changed
        ([(0, 3), (3, 6)], 0),
        ([(0, 6), (3, 5)], 4),
    ],
)
@pytest.mark.parametrize("steps_at_once", [2, 24])
def test_translation_strategies_are_one_series(
    server: Server, monkeypatch: pytest.MonkeyPatch, parts: list[tuple[int, int]], repeated: int, steps_at_once: int
) -> None:
    monkeypatch.setattr(prometheus, "_STEPS_AT_ONCE", steps_at_once)
    dotted = {"epping.subnet": "192.0.2.0/24", "job": "otel-epping", "instance": "a", "epping.network.tag.a-b": "c"}
    underscored = {label.replace(".", "_").replace("-", "_"): value for label, value in dotted.items()}
    for names, labels, (first, end) in zip(
        ((RTT, IO), ("epping.rtt.duration", "epping.network.io")), (underscored, dotted), parts, strict=True
    ):
        rtts = [[T0 + n * STEP_S, histogram({-100: 900 + n})] for n in range(first, end)]
        numbers = [[T0 + n * STEP_S, str(10_000 + 10 * n)] for n in range(first, end)]
        server.series[names[0]] = [{"metric": labels, "histograms": rtts}]
        server.series[names[1]] = [{"metric": labels, "values": numbers}]
    history = read(server, 5)
    assert (history.total().rtts().counts.tolist(), list(octets(history).values())) == ([5], [50])
    note = "data points that are not used, because the same series with another name has a point of this time"
    assert [each for each in history.notes if each.startswith(note)] == [f"{note}: {repeated}"] * bool(repeated)


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
        {"buckets": [[0, "1e-300", "2e-300", "1"]]},
        {"buckets": [[0, "1", repr(2 ** (2.0**-9)), "1"]]},
        {"count": "5"},
    ],
)
def test_other_histograms_are_not_used(server: Server, wrong: dict[str, Any]) -> None:
    points = [[T0 + n * STEP_S, histogram({0: n + 1}) | wrong] for n in range(3)]
    server.series = {RTT: [{"metric": LABELS, "histograms": points}], IO: [values(1, 2)]}
    history = read(server, 2)
    assert "data points that are not used, because they have buckets that cannot be converted: 3" in history.notes


@pytest.mark.parametrize("wrong", ["NaN", "+Inf", "-1", str(2**57), "1e300"])
def test_impossible_counts_are_dropped(server: Server, wrong: str) -> None:
    """Each of three series has one damaged value. The counts of the other points are used."""
    counts = [[T0 + n * STEP_S, histogram({-100: n})] for n in range(5)]
    counts[1][1] = histogram({-100: 1}, count=wrong)
    counts[2][1] = histogram({-100: 2}, sum=wrong)
    counts[3][1] = histogram({-100: 3}) | {"buckets": [[*histogram({-100: 3})["buckets"][0][:3], wrong]]}
    numbers, active = values(1, 2, 3), values(1, 2, 3)
    numbers["values"][1][1] = active["values"][1][1] = wrong
    server.series = {RTT: [{"metric": LABELS, "histograms": counts}], IO: [numbers], "epping_flow_active": [active]}
    history = read(server, 4)
    total = history.total().rtts()
    assert (total.counts.tolist(), total.sum_ns.tolist(), octets(history)) == ([4], [40_000_000], {"192.0.2.0/24": 2})
    current = history.total().sum(metric_table.ACTIVE_FLOWS.name)
    assert current is not None
    assert current.max() == 3
    assert "data points that are not used, because they have an impossible count: 4" in history.notes
    assert "data points that are not used, because they have buckets that cannot be converted: 1" in history.notes


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


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "target", "cure"),
    [
        ("http://u:secret@{}/api/v1/label/__name__/values?token=secret", "http://{}", "use this URL"),
        ("http://{}/prometheus/api/v1/label/__name__/values?x", "http://{}/prometheus", "use this URL"),
        ("/p\u00e9/api/v1/label/__name__/values", "{}/p%C3%A9", "use this URL"),
        ("//{}/login?token=secret", "http://{}/login", "name the URL of Prometheus itself, or set PROMETHEUS_HEADERS"),
        ("file:///etc/passwd", "file:///etc/passwd", "name the URL of Prometheus itself"),
        ("http://[", "an invalid URL", "name the URL of Prometheus itself"),
    ],
)
def test_redirects_are_not_followed(server: Server, status: int, location: str, target: str, cure: str) -> None:
    """A redirect must not send the credentials to another host."""
    other = Server()
    host = other.url.removeprefix("http://")
    server.answer, server.location = (status, ""), location.format(host).encode().decode("latin-1")
    with pytest.raises(EppingError) as caught:
        read_prometheus([server.url.replace("//", "//user:secret@")])
    other.close()
    assert not other.requests
    target = target.format(server.url if target.startswith("{") else host)
    assert f": HTTP {status} " in str(caught.value)
    assert f": the server redirects to {target}: {cure}" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "nulls", ["warnings", "infos", "errorType", "error", "values", "histograms", "buckets", "result", "names"]
)
def test_fields_that_are_null(server: Server, monkeypatch: pytest.MonkeyPatch, nulls: str) -> None:
    """The encoder of Go writes an empty list as null."""
    find = server.find

    def answer(given: dict[str, list[str]]) -> dict[str, Any]:
        found = find(given)
        if "query" not in given:
            return found | {"data": None} if nulls == "names" else found
        if nulls == "result":
            found["data"]["result"] = None
        for each in found["data"]["result"] or []:
            each |= {nulls: None} if nulls in ("values", "histograms") and nulls not in each else {}
            for _, value in each.get("histograms") or []:
                value |= {"buckets": None} if nulls == "buckets" and value["count"] == "0" else {}
        return found | ({nulls: None} if nulls in ("warnings", "infos", "errorType", "error") else {})

    monkeypatch.setattr(server, "find", answer)
    points = [[T0 + n * STEP_S, histogram({-100: n} if n else {})] for n in range(3)]
    server.series = {IO: [values(1, 2)], RTT: [{"metric": LABELS, "histograms": points}]}
    if nulls in ("result", "names"):
        with pytest.raises(EppingError, match=r"no (increase of )?metrics of otel-epping in the range"):
            read(server, 2)
    else:
        assert int(read(server, 2).total().rtts().counts.sum()) == 2


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("data", ["[" * 100_000 + "]" * 100_000, '{"result":' * 100_000 + "1" + "}" * 100_000])
def test_deeply_nested_answers(server: Server, status: int, data: str) -> None:
    server.answer = status, f'{{"status":"success","data":{data}}}'
    with pytest.raises(EppingError, match=r"not of Prometheus' HTTP API: check the path|HTTP 500"):
        read(server, 2)


def test_an_answer_that_is_not_http() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"garbage\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(EppingError) as caught:
            read_prometheus([url])
        thread.join()
    assert str(caught.value) == f"{url}: garbage"


def test_paths_with_other_characters(server: Server) -> None:
    server.series = {IO: [values(1, 2)]}
    read_prometheus([f"{server.url}/\u00fc b%20c/?start={T0}&end={T0 + 60}"])
    assert server.requests[0][0] == "/%C3%BC%20b%20c/api/v1/label/__name__/values"


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
        ("start=1e300&end=1e301", "invalid time '1e301' in the URL of Prometheus: write it as"),
        ("start=1700000000000", "invalid time '1700000000000'"),
        ("start=-5", "invalid time '-5'"),
        ("start=9999999w", "invalid time '9999999w'"),
        ("start=0001-01-01T00:00:00Z", "invalid time '0001-01-01"),
        (f"start={'9' * 5000}d", "invalid time"),
        (f"step={'9' * 5000}d", "invalid duration"),
        ("start=0&step=1s", r"has [\d,]+ steps.*: use a longer step"),
    ],
)
def test_invalid_urls(parameters: str, message: str) -> None:
    with pytest.raises(EppingError, match=message):
        PrometheusApi(f"http://localhost?{parameters}")


@pytest.mark.parametrize(
    "host", ["@127.0.0.1:9", "/x@h", "?x@h", "#x@h", "@ho\u2100st", "@[::1", "@[x]", "@h:abc", "@h:99999"]
)
def test_errors_do_not_contain_the_password(host: str, tmp_path: Path) -> None:
    with pytest.raises(EppingError) as caught:
        read_prometheus([f"http://user:secret{host}/"])
    assert "secret" not in str(caught.value)
    recording = tmp_path / "recording.jsonl"
    recording.write_text('{"resourceMetrics":[]}\n')
    with pytest.raises(EppingError, match="different kinds") as caught:
        read_sources([f"http://user:secret{host}/", str(recording)])
    assert "secret" not in str(caught.value)


def test_notes_do_not_contain_the_password(server: Server) -> None:
    server.series = {IO: [values(1, 2)]}
    url = f"{server.url}?start={T0}&end={T0 + 60}".replace("//", "//user:secret@")
    assert f"{server.url} is named several times, and was read once" in read_sources([url, url]).notes


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
