# SPDX-License-Identifier: Apache-2.0
"""Tests the numbers of reports. All formats must have the same numbers."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, UNANSWERED, Line
from otel_epping.history.statistics import line_statistics
from otel_epping.history.verdict import Thresholds
from otel_epping.networks.pseudonyms import Pseudonyms, Show, unchanged
from otel_epping.otel.metric_table import SUBNET_PACKETS
from otel_epping.report import text
from otel_epping.report.as_json import as_data, as_json
from otel_epping.report.build import build
from otel_epping.report.document import Report, listed
from otel_epping.report.html import html
from otel_epping.report.markdown import markdown
from otel_epping.report.measurement import Source
from otel_epping.report.text import moment
from tests.support.histories import MS, SECOND, TIMESTAMP, octets, packets, slice_of
from tests.support.provider import customers_with_bufferbloat, provider

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "report.schema.json").read_text())
SECTIONS = [
    "verdict",
    "worst_networks",
    "heat_map",
    "smoke",
    "distributions",
    "spread",
    "traffic",
    "load",
    "features",
    "coverage",
]
BEGIN_NS = 1_700_000_040 * SECOND
GOOD, EVIL = Line(subnet="192.0.2.0/24"), Line(name="<script>alert(1)</script> & \"Söhne\" | *x* 'y' </table>")


@contextmanager
def no_progress(_: str, __: int) -> Iterator[Any]:
    yield lambda _: None


def report_of(*histories: History, show: Show = unchanged) -> Report:
    sources = [Source(f"source {number}", history) for number, history in enumerate(histories)]
    return build(sources, Thresholds(), show, no_progress)


def data_of(*histories: History, show: Show = unchanged) -> Any:
    """Return the JSON data of a report. Fail if the data do not match the schema."""
    data = json.loads(as_json(report_of(*histories, show=show)))
    jsonschema.validate(data, SCHEMA)
    return data


def small(rtts_ms: dict[Line, list[float]]) -> History:
    """Return a history of one second."""
    history = History()
    traffic = {(line, packets("to")): 100 for line in rtts_ms} | {(line, octets("to")): 90_000 for line in rtts_ms}
    rtts_ns = {(line, TIMESTAMP): [round(each * MS) for each in rtts] for line, rtts in rtts_ms.items() if rtts}
    history.add(slice_of(history.numbering, BEGIN_NS, BEGIN_NS + SECOND, traffic, rtts_ns))
    return history


class Elements(HTMLParser):
    """Checks that elements are closed in the right order, and collects the elements and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.names: list[str] = []
        self.ids: list[str] = []
        self.cells: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag != "meta":
            self.open.append(tag)
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "td" in self.open:
            self.cells[-1] += data


def test_the_sections_are_in_order() -> None:
    history = provider(20, 48)
    assert [section.key for section in report_of(history).sections] == SECTIONS
    both = [section.key for section in report_of(history, provider(20, 24, seed=2)).sections]
    assert both == ["verdict", "comparison", *SECTIONS[1:]]


def test_the_table_of_networks_has_the_statistics_of_the_history() -> None:
    history = provider(40, 48)
    found = line_statistics(history.total())
    rows = data_of(history)["sections"]["worst_networks"]["tables"]["networks"]["rows"]
    assert len(rows) == 40
    assert [row["impact"] for row in rows] == sorted((row["impact"] for row in rows), reverse=True)
    numbers = {line.label: number for number, line in enumerate(history.lines)}
    for row in rows:
        number = numbers[row["network"]]
        for key in ("p50", "p95", "minimum", "excess", "impact", "loss_to", "bits_from", "coverage"):
            assert row[key] == getattr(found, key)[number]
        assert row["samples"] == found.samples[number]


def test_the_sums_of_all_figures_and_tables_agree() -> None:
    history = provider(40, 48)
    samples = int(history.total().rtts().counts.sum())
    sections = data_of(history)["sections"]
    assert sum(map(sum, sections["heat_map"]["figures"]["p95"]["data"]["samples"])) == samples
    assert sum(row["samples"] for row in sections["coverage"]["tables"]["methods"]["rows"]) == samples
    assert sum(row["samples"] for row in sections["worst_networks"]["tables"]["methods"]["rows"]) == samples
    assert sum(row["samples"] for row in sections["distributions"]["tables"]["sides"]["rows"]) == samples
    curves = sections["distributions"]["figures"]["cdf"]["data"]["curves"]
    assert sum(curve["samples"] for curve in curves) == samples
    for curve in curves:
        assert curve["share"][-1] == 1
        assert curve["share"] == sorted(curve["share"])
        assert curve["rtt_s"] == sorted(curve["rtt_s"])

    features = sections["features"]["tables"]["protocols"]["rows"]
    whole = history.total().sum(SUBNET_PACKETS.name)
    assert whole is not None
    assert sum(row["packets"] for row in features) == whole.sum()
    assert sum(row["packet_share"] for row in features) == pytest.approx(1)


def test_the_verdict_says_when_a_network_was_slow() -> None:
    """A network is slow from the 10th to the 19th second, and again in the 25th, of 40 seconds."""
    line, history = Line(subnet="192.0.2.0/24"), History()
    slow = {*range(10, 20), 25}
    for second in range(40):
        traffic = {(line, packets("to")): 100, (line, octets("to")): 90_000}
        rtts_ns = {(line, TIMESTAMP): [(150 if second in slow else 10) * MS] * 30}
        begin_ns = BEGIN_NS + second * SECOND
        history.add(slice_of(history.numbering, begin_ns, begin_ns + SECOND, traffic, rtts_ns))
    report = report_of(history)
    (row,) = data_of(history)["sections"]["verdict"]["tables"]["slow"]["rows"]
    begin, end = moment(BEGIN_NS + 10 * SECOND), moment(BEGIN_NS + 26 * SECOND)
    assert (row["slow_periods"], row["slow_from"], row["slow_until"]) == ("11 of 40", begin, end)
    sentence = f"192.0.2.0/24 was slow in 11 of 40 periods of 1 s, from {begin} to {end} UTC."
    assert sentence in report.sections[0].sentences


def test_a_smoke_plot_has_the_quantiles_of_its_network() -> None:
    history = provider(10, 30)
    smoke = data_of(history)["sections"]["smoke"]["figures"]["network_1"]["data"]
    number = [line.label for line in history.lines].index(smoke["network"])
    for period, total in enumerate(history.over_time()):
        rtts = total.rtts()
        assert smoke["samples"][period] == rtts.counts[number]
        for q, key in ((0.05, "p05_s"), (0.5, "p50_s"), (0.95, "p95_s")):
            assert smoke[key][period] == pytest.approx(rtts.quantiles(q)[0][number], rel=1e-3)
    assert smoke["begins_ms"][0] * MS == history.begin_ns
    assert np.diff(smoke["begins_ms"]).tolist() == [smoke["step_ms"]] * 29


def test_the_faults_of_the_provider_are_found() -> None:
    sections = data_of(provider(200, 14 * 24))["sections"]
    added = sections["load"]["tables"]["networks"]["rows"][: customers_with_bufferbloat(190)]
    assert {int(row["network"].split()[-1]) for row in added} == set(range(6))
    lossy = {
        row["network"] for row in sections["worst_networks"]["tables"]["networks"]["rows"] if row["loss_to"] > 0.02
    }
    assert lossy == {row["network"] for row in _rows_with_tag(sections, "Hill")}


def _rows_with_tag(sections: Any, tag: str) -> list[Any]:
    return [row for row in sections["worst_networks"]["tables"]["networks"]["rows"] if row["tags"] == tag]


def test_all_formats_have_the_same_numbers() -> None:
    report = report_of(provider(10, 24))
    cells = [cell.strip() for cell in Elements(html(report)).cells]
    lines = markdown(report).replace("\\", "").splitlines()
    expected = []
    for section in report.sections:
        for table in section.tables:
            for row in table.rows:
                shown = [text.cell(column.kind, each) for column, each in zip(table.columns, row, strict=True)]
                assert f"| {' | '.join(shown)} |" in lines
                expected += shown
            keys = [column.key for column in table.columns]
            rows = as_data(report)["sections"][section.key]["tables"][table.key]["rows"]
            assert rows == [dict(zip(keys, row, strict=True)) for row in table.rows]
    assert cells == expected


def test_names_are_escaped() -> None:
    history = small({EVIL: [10, 90] * 20, GOOD: [7] * 30})
    history.notes.append("<script>note</script>")
    page = html(report_of(history))
    found = Elements(page)
    assert found.names.count("script") == 3  # plotly.js, the data and report.js
    assert EVIL.name in found.cells
    assert "<script>alert" not in page
    assert "<script>note" not in page
    assert len(found.ids) == len(set(found.ids))
    marked = markdown(report_of(history))
    assert "<script>" not in marked.replace("\\<", "")
    assert data_of(history)["sections"]["verdict"]["sentences"]


@pytest.mark.parametrize(
    "history",
    [
        History(),
        small({GOOD: []}),
        small({GOOD: [10]}),
        small({GOOD: [10] * 500}),
        small({Line(OVERFLOW): [10] * 50}),
        small({Line(UNANSWERED): []}),
    ],
    ids=["empty", "no RTT", "one RTT", "one network", "only overflow", "only unanswered"],
)
def test_a_report_of_little(history: History) -> None:
    data = data_of(history)
    assert list(data["sections"]) == SECTIONS
    Elements(html(report_of(history)))
    assert "nan" not in as_json(report_of(history)).lower().replace("unanswered", "")
    assert data_of(history, history)["sections"]["comparison"]
    assert markdown(report_of(history))


def test_uncertain_rows_are_marked() -> None:
    page = html(report_of(small({GOOD: [10] * 19, EVIL: [10] * 20})))
    assert page.count('class="uncertain"') == 1


def test_a_redacted_report_has_no_names() -> None:
    history = provider(20, 24)
    data = json.dumps(data_of(history, show=Pseudonyms()))
    for line in history.lines:
        for secret in (line.name, line.subnet, line.as_organization, *(value for _, value in line.tags)):
            assert not secret or secret not in data
    assert "lan0" not in data
    assert "network-1" in data


def test_texts_that_utf_8_cannot_encode_are_escaped() -> None:
    odd = [Line(subnet="10.0.0.0/24", agent=f"\ud800{n}", interface="a\n\udcff") for n in range(2)]
    history = small({line: [10] * 50 for line in (*odd, Line(country="\ud800"), Line(tags=(("t", "\ud801"),)))})
    history.notes.append("odd \udcfc")
    for write in (html, markdown, as_json):
        assert "\\ud8" not in write(report_of(history)).encode().decode().lower()
    assert data_of(history)["notes"] == ["odd \\xfc"]


def test_two_sources_are_compared() -> None:
    a, b = small({GOOD: [30] * 50, EVIL: [10] * 50}), small({GOOD: [10] * 50})
    comparison = data_of(a, b)["sections"]["comparison"]
    (row,) = comparison["tables"]["networks"]["rows"]
    assert row["network"] == GOOD.label
    assert row["change_p95"] == pytest.approx(0.02)
    assert (row["a_samples"], row["b_samples"]) == (50, 50)
    heat = comparison["figures"]["difference"]["data"]
    assert heat["a_p95_s"] == [[pytest.approx(0.03)]]
    assert heat["b_p95_s"] == [[pytest.approx(0.01)]]


def test_days_are_compared_at_the_same_time_of_the_day() -> None:
    whole = provider(10, 72)
    a, b = History(whole.numbering), History(whole.numbering)
    for number, total in enumerate(whole.over_time()):
        for history, hours in ((a, range(3, 40)), (b, range(30, 72))):
            if number in hours:
                history._insert(total.stored())
    heat = data_of(a, b)["sections"]["comparison"]["figures"]["difference"]["data"]
    first = whole.numbering.lines.find(next(line for line in whole.lines if line.label == heat["networks"][0]))
    p95 = [total.rtts().quantiles(0.95)[0][first] for total in whole.over_time()]
    # A begins at 3:00 of the first day, and B at 6:00 of the second day (hour 30).
    expected = [None] * 3 + p95[30 : 30 + len(heat["begins_ms"]) - 3]
    assert len(expected) == 37
    for found, wanted in zip(heat["b_p95_s"][0], expected, strict=True):
        assert (found is None) == (wanted is None)
        assert found is None or found == pytest.approx(wanted, rel=1e-3)


def test_numbers_of_figures_have_four_digits() -> None:
    assert listed(np.array([0.0123456, 123456.0, 0.0, np.nan, -1.23456])) == [0.01235, 123500.0, 0.0, None, -1.235]
    assert listed(np.array([[1, 2], [3, 4]])) == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.ms(0.0000123), "0.012"),
        (text.ms(0.01234), "12.3"),
        (text.ms(1.5), "1,500"),
        (text.percent(0.0213), "2.13"),
        (text.percent(0.00001), "<0.01"),
        (text.percent(1), "100.0"),
        (text.duration(90061), "1 d 1 h"),
        (text.duration(14.2), "14.2 s"),
        (text.cell("count", None), "-"),
    ],
)
def test_texts_of_numbers(shown: str, expected: str) -> None:
    assert shown == expected
