# SPDX-License-Identifier: Apache-2.0
"""Tests histories that are read from OTLP files."""

import gzip
import json
import re
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics.export import AggregationTemporality

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.line import Line
from otel_epping.history.sources.live import LiveSource
from otel_epping.history.sources.reading import InputFile
from otel_epping.history.statistics import line_statistics
from tests.history.otlp_lines import (
    CUMULATIVE,
    T0,
    Recording,
    S,
    attributes,
    buckets,
    content,
    durations,
    io,
    line,
    number,
    octets,
    read,
    rtts,
    write,
)
from tests.history.test_live import CONFIG
from tests.series.test_synthetic import EVENT, apply
from tests.support.synthetic_kernel import STARTED_NS, SyntheticCollector, SyntheticKernel

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

TEMPORALITIES = AggregationTemporality.DELTA, AggregationTemporality.CUMULATIVE
A, B = "192.0.2.0/24", "198.51.100.0/24"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(EVENT, max_size=20), min_size=1, max_size=6), st.sampled_from(list(AggregationTemporality)[1:])
)
def test_a_recording_has_the_counts_of_the_live_history(
    tmp_path_factory: pytest.TempPathFactory, steps: list[list[Any]], temporality: AggregationTemporality
) -> None:
    kernel = SyntheticKernel(CONFIG, 12)
    collector: Any = SyntheticCollector(kernel)
    path = tmp_path_factory.mktemp("recording") / "file.jsonl"
    live = History()
    source, recording = LiveSource(collector, live.numbering), Recording(collector, path, temporality)
    kernel.packet(1, 100)  # so that at least one packet is counted
    for step, events in enumerate((*steps, [], []), 1):
        apply(kernel, events, set())
        kernel.now_ns = STARTED_NS + step * 60 * S
        live.add(source.take())
        recording.export()
    # An exported histogram has at most 160 buckets, so the scale can be lower than the scale of a live history.
    assert content(read(path), 0) == content(live, 0)


def test_deltas(tmp_path: Path) -> None:
    lines = [
        line(io(number(A, 0, 60, "100"), number(B, 0, 60, 7)), durations(rtts(A, 0, 60, ["1", "2"]))),
        line(io(number(A, 60, 120, 50), temporality=1), durations(rtts(A, 60, 120, [0, 4]), temporality=1)),
    ]
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 150, B: 7}
    assert buckets(history, A) == (4, {-100: 1, -99: 6})
    assert [(total.begin_ns, total.end_ns) for total in history.over_time()] == [
        (T0, T0 + 60 * S),
        (T0 + 60 * S, T0 + 120 * S),
    ]
    assert history.notes == []


def test_cumulative_counts_are_increments(tmp_path: Path) -> None:
    """The first export is one interval after the start of the agent, so the counts of the first export are used."""
    lines = [
        line(io(number(A, 0, 60, 100), temporality=2), durations(rtts(A, 0, 60, [1, 2]), temporality=2)),
        line(io(number(A, 0, 120, 150), temporality=CUMULATIVE), durations(rtts(A, 0, 120, [1, 5]), temporality=2)),
        line(io(number(A, 0, 180, 150), number(B, 150, 180, 3), temporality=2)),
    ]
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 150, B: 3}
    assert octets(history, T0 + 60 * S, T0 + 120 * S) == {A: 50}
    assert buckets(history, A) == (4, {-100: 1, -99: 5})
    assert history.total().begin_ns == T0
    assert history.notes == []


def test_the_first_point_of_an_older_series_is_a_baseline(tmp_path: Path) -> None:
    lines = [
        line(io(number(A, -9000, at, 1000 + at), temporality=2), durations(rtts(A, -9000, at, [at, 5]), temporality=2))
        for at in (60, 120, 180)
    ]
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 120}
    assert buckets(history, A) == (4, {-100: 120})
    assert history.total().seconds == 120
    # The minimum has not changed, so the minimum of the increments is unknown.
    assert history.total().rtts().min_ns.tolist() == [0]
    assert history.notes == ["series that began earlier than the source, so that earlier counts are not used: 2"]


def test_a_file_with_one_cumulative_export_has_all_counts_since_the_start(tmp_path: Path) -> None:
    history = read(write(tmp_path, line(io(number(A, -9000, 60, 1000), temporality=2))))
    assert octets(history) == {A: 1000}
    assert history.total().seconds == 9060


def test_a_restart_of_the_agent_resets_cumulative_counts(tmp_path: Path) -> None:
    before = [io(number(A, 0, at, at), temporality=2) for at in (60, 120)]
    after = [io(number(A, 125, at, at - 125), temporality=2) for at in (185, 245)]
    histograms = [rtts(A, 0, 60, [1, 1]), rtts(A, 0, 120, [2, 2]), rtts(A, 125, 185, [1, 0]), rtts(A, 125, 245, [9, 0])]
    lines = [line(octet, durations(rtt, temporality=2)) for octet, rtt in zip(before + after, histograms, strict=True)]
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 240}
    assert buckets(history, A) == (4, {-100: 11, -99: 2})
    assert history.total().seconds == 240
    assert history.notes == ["series that were reset, for example because the agent was restarted: 2"]


def test_counts_that_decrease_without_a_restart_are_a_baseline(tmp_path: Path) -> None:
    lines = [line(io(number(A, 0, at, count), temporality=2)) for at, count in ((60, 10), (120, 4), (180, 5))]
    lines += [line(durations(rtts(B, 0, at, counts), temporality=2)) for at, counts in ((60, [3, 3]), (120, [9, 1]))]
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 11}
    assert buckets(history, B) == (4, {-100: 3, -99: 3})
    assert history.notes == ["cumulative counts that decreased without a restart, each of which is a baseline: 2"]


def test_repeated_cumulative_points_count_once(tmp_path: Path) -> None:
    lines = [
        line(io(number(A, 0, at, at), temporality=2), more) for at, more in ((60, {}), (120, {}), (60, {"name": "x"}))
    ]
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 120}
    assert history.notes == [
        "data points that are not used, because they are not later than the previous point of their series: 1"
    ]


def test_cumulative_counts_continue_in_the_next_file(tmp_path: Path) -> None:
    first = write(tmp_path, line(io(number(A, -9000, 60, 10), temporality=2)), name="1")
    second = write(tmp_path, line(io(number(A, -9000, 120, 25), temporality=2)), name="2")
    assert octets(read(first, second)) == {A: 15}


@pytest.mark.parametrize("temporality", [1, 2])
def test_scales_may_change(tmp_path: Path, temporality: int) -> None:
    second, start = ([2, 2], 60) if temporality == 1 else ([5, 5], 0)
    points = [rtts(A, 0, 60, [1, 2, 3], -100, 4), rtts(A, start, 120, second, -50, 3)]
    history = read(write(tmp_path, *(line(durations(each, temporality=temporality)) for each in points)))
    assert buckets(history, A) == (3, {-50: 5, -49: 5})


def test_each_agent_has_its_own_lines(tmp_path: Path) -> None:
    lines = [
        line(io(number(A, 0, at, at), temporality=2), agent=agent, host__name=f"host {agent}")
        for at in (60, 120)
        for agent in ("x", "y")
    ]
    assert octets(read(write(tmp_path, *lines))) == {f"{A}host x": 120, f"{A}host y": 120}
    same = [each.replace("host y", "host x") for each in lines]
    assert octets(read(write(tmp_path, *same))) == {f"{A}x": 120, f"{A}y": 120}


def test_explicit_buckets_of_exponential_bounds(tmp_path: Path) -> None:
    bounds = [2 ** (i / 2) for i in range(-20, 4)]
    point = rtts(A, 0, 60, [])
    del point["scale"], point["positive"], point["zeroCount"]
    point |= {"explicitBounds": bounds, "bucketCounts": [*(str(i) for i in range(24)), "0"], "count": sum(range(24))}
    metric: dict[str, Any] = durations(point)
    metric["histogram"] = metric.pop("exponentialHistogram")
    history = read(write(tmp_path, line(metric)))
    assert buckets(history, A) == (1, {index: index + 21 for index in range(-20, 3)})
    point["explicitBounds"] = [i / 100 for i in range(1, 25)]
    with pytest.raises(EppingError, match="because they have buckets that cannot be converted: 1"):
        read(write(tmp_path, line(metric)))


def test_current_values_and_values_of_the_agent(tmp_path: Path) -> None:
    def flows(at: int, value: int) -> dict[str, Any]:
        point = {"attributes": attributes(**{"epping.subnet": A}), "timeUnixNano": T0 + at * S, "asInt": value}
        return {"name": "epping.flow.active", "sum": {"dataPoints": [point], "aggregationTemporality": 2}}

    def kinds(at: int, value: int) -> dict[str, Any]:
        own = attributes(**{"network.interface.name": "eth0", "epping.packet.kind": "tcp"})
        point = {
            "attributes": own,
            "startTimeUnixNano": T0,
            "timeUnixNano": T0 + at * S,
            "asDouble": float(value),
        }
        return {"name": "epping.interface.packet.count", "sum": {"dataPoints": [point], "aggregationTemporality": 2}}

    lines = [line(flows(at, at), kinds(at, 2 * at), io(number(A, at - 60, at, 1))) for at in (60, 120)]
    history = read(write(tmp_path, *lines))
    total = history.total()
    active = total.sum("epping.flow.active")
    assert active is not None
    assert active.tolist() == [120]
    assert total.agent_sum("epping.interface.packet.count", kind="tcp", interface="eth0") == 240
    assert history.lines == [Line(subnet=A)]


def test_attributes_become_lines(tmp_path: Path) -> None:
    own = {
        "epping.network.name": "Miller",
        "epping.network.tag.site": "Berlin",
        "network.peer.as.number": 64500,
        "network.interface.name": "eth0",
    }
    point = number(A, 0, 60, 1)
    point["attributes"] = attributes(**own)
    everything = number(B, 0, 60, 1)
    everything["attributes"] = attributes(**{"otel.metric.overflow": True})
    history = read(write(tmp_path, line(io(point, everything))))
    assert history.lines == [
        Line(name="Miller", tags=(("site", "Berlin"),), as_number=64500, interface="eth0"),
        Line("overflow"),
    ]


def test_a_series_may_have_its_attributes_in_any_order(tmp_path: Path) -> None:
    first, second = number(A, 0, 60, 100), number(A, 0, 120, 150)
    second["attributes"] = second["attributes"][::-1]
    lines = (line(io(each, temporality=CUMULATIVE)) for each in (first, second))
    assert octets(read(write(tmp_path, *lines))) == {A: 150}


def test_points_without_a_value_change_nothing(tmp_path: Path) -> None:
    """The Collector marks series that are not scraped any more with such points."""
    series = {"sum": [number(A, 0, 60 * minute, 100 * minute) for minute in (1, 2, 3)]}
    series["rtts"] = [rtts(A, 0, 60 * minute, [minute]) for minute in (1, 2, 3)]
    for points in series.values():
        times = {name: points[1][name] for name in ("attributes", "startTimeUnixNano", "timeUnixNano")}
        points[1] = times | {"flags": 1}
    lines = (
        line(io(octets_point, temporality=CUMULATIVE), durations(rtts_point, temporality=CUMULATIVE))
        for octets_point, rtts_point in zip(*series.values(), strict=True)
    )
    history = read(write(tmp_path, *lines))
    assert octets(history) == {A: 300}
    assert buckets(history, A) == (4, {-100: 3})
    assert history.notes == ["data points that are not used, because they have no value: 2"]


@pytest.mark.parametrize("without", [0, 2])
def test_without_a_sum_the_mean_is_unknown(tmp_path: Path, without: int) -> None:
    """The increment before and the increment after a cumulative point without a sum have no sum."""
    points = [rtts(A, -600, 60 * minute, [minute]) for minute in (1, 2, 3, 4)]
    del points[without]["sum"]
    history = read(write(tmp_path, *(line(durations(each, temporality=CUMULATIVE)) for each in points)))
    assert history.total().rtts().counts.sum() == 3
    assert np.isnan(line_statistics(history.total()).mean).all()


def test_the_first_export_may_have_many_lines_and_times(tmp_path: Path) -> None:
    """Each of 20 agents exports bytes and, a second later, RTTs. The exports of all agents come in turns."""
    lines = [
        line(metric, agent=f"{agent}")
        for minute in (1, 2, 3)
        for metric in (
            io(number(A, 0, 60 * minute, 100 * minute), temporality=CUMULATIVE),
            durations(rtts(A, 0, 60 * minute + 1, [minute]), temporality=CUMULATIVE),
        )
        for agent in range(20)
    ]
    history = read(write(tmp_path, *lines))
    assert set(octets(history).values()) == {300}
    assert history.total().rtts().counts.sum() == 20 * 3
    assert not history.notes


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    good = line(io(number(A, 0, 60, 1)))
    foreign = {"name": "http.requests", "sum": {"dataPoints": [{"asInt": "1"}], "aggregationTemporality": 2}}
    timeless = number(A, 0, 60, 1)
    del timeless["timeUnixNano"]
    invalid = number(A, 0, 60, 1)
    invalid["attributes"] = [{"name": "x"}]
    lines = [
        line(foreign, io(timeless, invalid), io(number(A, 0, 60, 5), temporality=0)),
        '{"resourceSpans":[]}',
        good[:-30],
        "",
        good,
    ]
    path = tmp_path / "file"
    path.write_text("\n".join(lines) + "\n" + good[:100])
    history = read(path)
    assert octets(history) == {A: 1}
    assert history.notes[0].startswith(f"{path}: 3 lines are not used, of 6; line 2: it has spans instead of metrics")
    assert history.notes[1:] == [
        "data points of other metrics, which are not used: 1 (http.requests)",
        "data points that are not used, because they have no time: 1",
        "data points that are not used, because they are neither deltas nor cumulative: 1",
        "data points that are not used, because they have invalid attributes: 1",
    ]


@pytest.mark.parametrize("content", [b"hello\n", b"\x7fELF\0\0", b"{}\n", b'[{"a":1}]', b'{"resourceMetrics":[]}'])
def test_a_file_without_counts_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(EppingError, match="no counts of otel-epping"):
        read(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(EppingError, match="No such file"):
        InputFile(str(tmp_path / "none"))
    with pytest.raises(EppingError, match="Is a directory"):
        InputFile(str(tmp_path))
    (tmp_path / "empty").touch()
    with pytest.raises(EppingError, match="is empty"):
        InputFile(str(tmp_path / "empty"))


def framed(text: bytes, compress: Any) -> bytes:
    """Returns the file that the Collector's file exporter writes with `compression: zstd`."""
    frames = [compress(each) for each in text.splitlines()]
    return b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)


def test_compressed_files(tmp_path: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    text = "".join(line(io(number(A, at, at + 1, 1))) + "\n" for at in range(5000)).encode()
    path = tmp_path / "file"
    for data in (gzip.compress(text), zstd.compress(text), framed(text, zstd.compress)):
        path.write_bytes(data)
        progress: list[int] = []
        file = InputFile(str(path), progress.append)
        file.close()
        assert octets(read(path)) == {A: 5000}
        path.write_bytes(data[: len(data) * 2 // 3])
        history = read(path)
        assert 1000 < octets(history)[A] < 5000
        assert "truncated; only the data before the damage are used" in history.notes[-1]


def test_other_writers(tmp_path: Path) -> None:
    """Changes the order of attributes, writes numbers instead of strings, and adds unknown fields."""
    first, second = (json.loads(line(io(number(A, at, at + 60, "7")))) for at in (0, 60))
    point = second["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["sum"]["dataPoints"][0]
    point["attributes"].reverse()
    point |= {"timeUnixNano": int(point["timeUnixNano"]), "asInt": 7, "exemplars": [{"asInt": "1"}], "flags": 0}
    second["partialSuccess"] = None
    history = read(write(tmp_path, json.dumps(first, indent=None), json.dumps(second)))
    assert octets(history) == {A: 14}
    assert len(history.lines) == 1


def test_histograms_of_high_scales_are_converted(tmp_path: Path) -> None:
    point = rtts(A, 0, 60, [1] * 160, offset=-(2**20) * 5 - 7, scale=20)
    scale, found = buckets(read(write(tmp_path, line(durations(point)))), A)
    assert (scale, found) == (6, {-321: 7, -320: 153})


EXTREMES = [
    "0",
    "-1",
    '"-1"',
    "1e999",
    "NaN",
    '"NaN"',
    str(2**63),
    f'"{2**64}"',
    "null",
    "true",
    '""',
    "[]",
    "{}",
    "1e18",
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_lines_are_counted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """For any content of a line, the result is a history or an EppingError."""
    kind = data.draw(st.sampled_from([1, 2]))
    text = line(io(number(A, 0, 60, "7"), temporality=kind), durations(rtts(A, 0, 60, ["1", "2"]), temporality=kind))
    if data.draw(st.booleans()):
        spans = [match.span(1) for match in re.finditer(r': ("[^"]*"|[-0-9.]+)', text)]
        begin, end = data.draw(st.sampled_from(spans))
        text = text[:begin] + data.draw(st.sampled_from(EXTREMES)) + text[end:]
    else:
        place = data.draw(st.integers(0, len(text)))
        text = text[:place] + data.draw(st.text(max_size=3)) + text[place + data.draw(st.integers(0, 9)) :]
    folder = tmp_path_factory.getbasetemp()
    (folder / "fuzzed").write_text(f"{text}\n{line(io(number(B, 0, 60, 1)))}\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        history = read(folder / "fuzzed")
    # If one of two times is damaged, the wrong time cannot always be found. A note says which interval is not used.
    assert any(label.startswith(B) for label in octets(history)) or "more than a year" in str(history.notes)
