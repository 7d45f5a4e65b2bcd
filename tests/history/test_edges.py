# SPDX-License-Identifier: Apache-2.0
"""Tests sources with unusual files: a file gives the right counts and a note, or an error with the cause."""

import gzip
import json
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.history.sources.kinds import read_sources
from otel_epping.history.statistics import line_statistics
from otel_epping.history.verdict import verdict
from tests.history.otlp_lines import CUMULATIVE, T0, S, attributes, durations, io, line, number, rtts
from tests.history.test_kinds import PCAP, PPING

zstd = pytest.importorskip("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

A = "192.0.2.0/24"
SINCE_1970 = -T0 // S
OVERFLOW = attributes(otel__metric__overflow=True)


def export(minute: int, agent: str = "a", begin: int | None = None) -> str:
    """Return the export of a minute: 3 RTTs in two buckets, and 100 bytes."""
    begin, end = 60 * minute if begin is None else begin, 60 * minute + 60
    return line(io(number(A, begin, end, 100)), durations(rtts(A, begin, end, [1, 2])), agent=agent)


def cumulative(minute: int) -> str:
    """Return the cumulative counts of all minutes up to a minute."""
    count, end = minute + 1, 60 * minute + 60
    points = number(A, 0, end, 100 * count), rtts(A, 0, end, [count, 2 * count])
    return line(io(points[0], temporality=CUMULATIVE), durations(points[1], temporality=CUMULATIVE))


def text(lines: Sequence[str]) -> bytes:
    return "".join(f"{each}\n" for each in lines).encode()


DELTAS = [export(minute) for minute in range(40)]
TEXT = text(DELTAS)
TOTALS = [cumulative(minute) for minute in range(40)]
# Each interval of these deltas ends a second after the cumulative counts of the same minute.
LATER = [
    line(io(number(A, begin + 1, begin + 61, 100)), durations(rtts(A, begin + 1, begin + 61, [1, 2])))
    for begin in range(0, 2400, 60)
]
WHOLE, HALF = 120, len(text(DELTAS[:20]))
FRAMES = zstd.compress(TEXT[:HALF]), zstd.compress(TEXT[HALF:])
# A router starts in 1970, exports twice, and gets the time from a server before its third export.
FIVE = line(io(number(A, 0, 60, 100)), durations(rtts(A, 0, 60, [2, 3])), agent="a")
WITHOUT_CLOCK = [export(1 + SINCE_1970 // 60), export(2 + SINCE_1970 // 60), export(-1, begin=SINCE_1970 + 180)]


@pytest.mark.parametrize(
    ("content", "samples", "note"),
    [
        pytest.param(TEXT, WHOLE, "", id="usual"),
        pytest.param(TEXT.replace(b"\n", b"\r\n"), WHOLE, "", id="CRLF"),
        pytest.param(b"\xef\xbb\xbf" + TEXT, WHOLE, "", id="byte order mark"),
        pytest.param(b"\n \n" + TEXT, WHOLE, "", id="empty lines"),
        pytest.param(TEXT[:-1], WHOLE, "", id="last line without its end"),
        pytest.param(TEXT[:-50], WHOLE - 3, "1 line is not used, of 40; line 40: Input data was truncated", id="cut"),
        pytest.param(TEXT + TEXT, WHOLE, "repeated lines, which count once: 40", id="the same file twice"),
        pytest.param(text(TOTALS * 2), WHOLE, "repeated lines, which count once: 40", id="cumulative file twice"),
        pytest.param(TEXT[:HALF] + b"garbage\n" + TEXT[HALF:], WHOLE, "1 line is not used, of 41", id="damaged line"),
        pytest.param(text(DELTAS[::-1]), WHOLE, "", id="time goes backwards"),
        pytest.param(text([*WITHOUT_CLOCK, *DELTAS]), WHOLE, "clock of the agent was wrong: 3, with 9 RTTs", id="1970"),
        pytest.param(text([*DELTAS, export(10**8)]), WHOLE, "agent was wrong: 1, with 3 RTTs", id="year 2213"),
        pytest.param(text(WITHOUT_CLOCK[:2]), 6, "", id="only 1970"),
        pytest.param(text([WITHOUT_CLOCK[0], FIVE]), 5, "agent was wrong: 1, with 3 RTTs", id="one export in 1970"),
        pytest.param(text([FIVE, export(10**8)]), 5, "agent was wrong: 1, with 3 RTTs", id="one export in 2213"),
        pytest.param(gzip.compress(TEXT[:HALF]) + gzip.compress(TEXT[HALF:]), WHOLE, "", id="two members of gzip"),
        pytest.param(b"".join(FRAMES), WHOLE, "", id="two frames of zstd"),
        pytest.param(FRAMES[0] + FRAMES[1][:-9], WHOLE // 2, "the zstd file is truncated", id="cut zstd"),
        pytest.param(text([DELTAS[0], export(0, "b")]), 6, "", id="two agents in one file"),
        pytest.param(text([*DELTAS, *TOTALS[1:]]), WHOLE, "which are deltas or cumulative: 78", id="both"),
        pytest.param(text([*TOTALS, *DELTAS]), WHOLE, "which are deltas or cumulative: 80", id="cumulative first"),
        pytest.param(text([*TOTALS[:20], *DELTAS[10:]]), WHOLE, "deltas or cumulative: 20", id="deltas continue"),
        pytest.param(text(sum(zip(TOTALS, LATER, strict=True), ())), WHOLE, "cumulative: 80", id="two readers"),
        pytest.param(DELTAS[0].replace('"sum": 0.03', '"sum": null').encode(), 3, "", id="no sum"),
        pytest.param(line(durations(rtts(A, 60, 60, [1]))).encode(), 1, "", id="one RTT in no time"),
        pytest.param(line(durations(rtts(A, 90, 60, [1]))).encode(), 1, "", id="start after end"),
        pytest.param(line(durations(rtts(A, 0, 60, [30]) | {"attributes": OVERFLOW})).encode(), 30, "", id="overflow"),
    ],
)  # fmt: skip
def test_odd_files_give_the_right_counts(tmp_path: Path, content: bytes, samples: int, note: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    history = read_sources([str(path)])
    assert history.total().rtts().counts.sum() == samples
    assert bool(history.notes) == bool(note)
    assert note in "".join(history.notes)
    assert history.total().seconds <= 2400
    assert "nan" not in verdict(history).sentence


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "file: is empty", id="empty"),
        pytest.param(b"\n\n", "is neither a capture", id="empty lines"),
        pytest.param(b"\x89PNG\r\n\x1a\n" + bytes(99), r"is neither a capture.* begins with b'\\x89PNG", id="PNG"),
        pytest.param(b"<!DOCTYPE html><html>", "is neither a capture, nor lines of OTLP/JSON", id="HTML"),
        pytest.param(bytes(range(256)), "is neither a capture", id="binary"),
        pytest.param(TEXT.decode().encode("utf-16"), r"is neither a capture.* begins with b'\\xff\\xfe", id="UTF-16"),
        pytest.param(gzip.compress(TEXT)[:20], "the gzip file is truncated", id="cut gzip"),
        pytest.param(zstd.compress(TEXT)[:20], "the zstd file is truncated", id="cut zstd"),
        pytest.param(gzip.compress(b"text"), "is neither a capture", id="gzip of text"),
        pytest.param(b'{"resourceSpans":[]}', "it has spans instead of metrics", id="spans"),
        pytest.param(json.dumps(json.loads(DELTAS[0]), indent=1).encode(), "lines are not used, of", id="pretty"),
        pytest.param(f"[{DELTAS[0]}]".encode(), "Expected `object`, got `array`", id="array"),
        pytest.param(line(io(number(A, 0, 60, 1), temporality=0)).encode(), "neither deltas nor", id="no temporality"),
        pytest.param(line({"name": "up", "gauge": {"dataPoints": [{}]}}).encode(), "other metrics", id="foreign"),
        pytest.param(b'[{"timestamp":1,"src_ip":', "damaged or not of ePPing: 1", id="cut ePPing"),
    ],
)  # fmt: skip
def test_other_files_are_errors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(EppingError, match=message):
        read_sources([str(path)])


def test_files_in_any_order(tmp_path: Path) -> None:
    """logrotate gives higher numbers to older files, so the shell expands `log*` in the wrong order of time."""
    totals = [cumulative(minute) for minute in range(40)]
    for name, part in (("log", totals[20:]), ("log.1", totals[10:20]), ("log.2", totals[:10])):
        (tmp_path / name).write_bytes(text(part))
    history = read_sources([str(tmp_path / name) for name in ("log", "log.1", "log.2")])
    assert history.total().rtts().counts.sum() == WHOLE
    assert history.notes == []


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(TEXT)
    history = read_sources([str(path), str(path)])
    assert history.total().rtts().counts.sum() == WHOLE
    assert history.notes == [f"{path} is named several times, and was read once"]


@pytest.mark.parametrize(
    ("content", "message"), [(PCAP, "cannot be read from a pipe here: name a file"), (b"", "is empty")]
)
def test_a_capture_cannot_come_from_a_pipe(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    with pytest.raises(EppingError, match=message):
        read_sources([str(path)])
    writer.join()


def test_recordings_come_from_pipes_too(tmp_path: Path) -> None:
    for content, samples in ((TEXT, WHOLE), (gzip.compress(TEXT), WHOLE), (PPING.encode(), 0)):
        path = tmp_path / "fifo"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_bytes, args=(content,))
        writer.start()
        assert read_sources([str(path)]).total().rtts().counts.sum() == samples
        writer.join()
        path.unlink()


@pytest.mark.parametrize("missing", ["min", "max", "sum"])
@pytest.mark.parametrize("order", [1, -1])
def test_some_histograms_without_a_minimum_a_maximum_or_a_sum(tmp_path: Path, missing: str, order: int) -> None:
    """The statistics never contradict the buckets: 5 RTTs of about 13 ms are known only by the bucket."""
    known = rtts(A, 0, 60, [5], offset=-60) | {"sum": 0.4, "min": 0.075, "max": 0.076}
    odd = rtts(A, 60, 120, [5], offset=-100) if missing != "max" else rtts(A, 60, 120, [5], offset=-50)
    del odd[missing]
    path = tmp_path / "file"
    path.write_bytes(text([line(durations(each)) for each in (known, odd)][::order]))
    history = read_sources([str(path)])
    found = {key: float(each[0]) for key, each in line_statistics(history.total())._asdict().items()}
    bucket = 2 ** (-49.5 / 16) if missing == "max" else 2 ** (-99.5 / 16)
    if missing == "min":
        assert found["minimum"] == found["p50"] == pytest.approx(bucket)
        assert found["maximum"] == 0.076
    elif missing == "max":
        assert found["maximum"] == found["p95"] == pytest.approx(bucket)
        assert found["minimum"] == 0.005
    else:
        assert str(found["mean"]) == str(found["excess"]) == "nan"
    assert found["samples"] == 10


def test_without_sums_there_is_no_verdict(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text(line(durations(rtts(A, 0, 60, [50]) | {"sum": None})))
    assert verdict(read_sources([str(path)])).sentence == (
        "No verdict: the source has no sums of RTTs, so the mean RTTs are unknown."
    )
