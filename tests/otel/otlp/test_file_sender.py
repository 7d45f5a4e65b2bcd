# SPDX-License-Identifier: Apache-2.0
"""Tests the file to which `run --record` appends exports."""

import fcntl
import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import MetricsData

from otel_epping.errors import EppingError
from otel_epping.otel.otlp.file_sender import FileSender
from otel_epping.otel.otlp.request import Request

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


def request(name: str = "x") -> Request:
    message = ExportMetricsServiceRequest()
    metric = message.resource_metrics.add().scope_metrics.add().metrics.add(name=name)
    metric.sum.aggregation_temporality = 1  # type: ignore[assignment]
    metric.sum.data_points.add(as_int=2**62, time_unix_nano=1)
    return Request(message.SerializeToString(), 1)


def names(path: Path) -> list[str]:
    messages = [json_format.Parse(line, MetricsData()) for line in path.read_text().splitlines()]
    return [each.resource_metrics[0].scope_metrics[0].metrics[0].name for each in messages]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Limits the size of files, which has the effect of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_each_request_is_a_line_of_otlp_json(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sender = FileSender(str(path))
    assert not any(sender.send(request(name)).failure for name in ("a", "caf\u00e9"))
    assert names(path) == ["a", "caf\u00e9"]
    (metric,) = json.loads(path.read_text().splitlines()[0])["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    # OTLP/JSON has enums as numbers, and 64-bit integers as strings.
    assert metric["sum"] == {
        "dataPoints": [{"timeUnixNano": "1", "asInt": str(2**62)}],
        "aggregationTemporality": 1,
    }


def test_a_line_that_does_not_fit_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    sender = FileSender(str(path))
    sender.send(request("a"))
    size = path.stat().st_size
    with largest_file(size + 10):
        failure = sender.send(request("b")).failure
        assert failure
        assert failure.text == f"cannot record to {path}: File too large"
        assert path.stat().st_size == size
    assert not sender.send(request("c")).failure
    assert names(path) == ["a", "c"]


def test_a_renamed_or_deleted_file_is_opened_again(tmp_path: Path) -> None:
    path, rotated = tmp_path / "file", tmp_path / "file.1"
    sender = FileSender(str(path))
    sender.send(request("a"))
    path.rename(rotated)
    sender.send(request("b"))
    assert (names(rotated), names(path)) == (["a"], ["b"])
    path.unlink()
    sender.send(request("c"))
    assert names(path) == ["c"]
    os.truncate(path, 0)  # as copytruncate of logrotate does
    sender.send(request("d"))
    assert names(path) == ["d"]


def test_a_folder_that_disappears_is_a_failure_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    sender = FileSender(str(folder / "file"))
    folder.rename(tmp_path / "other")
    failure = sender.send(request()).failure
    assert failure
    assert failure.text.endswith("No such file or directory")
    folder.mkdir()
    assert not sender.send(request("a")).failure
    assert names(folder / "file") == ["a"]


def test_an_incomplete_last_line_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"resourceMetrics":[')
    FileSender(str(path)).send(request("a"))
    assert path.read_text().startswith('{"resourceMetrics":[\n{"resourceMetrics":[{')


@pytest.mark.parametrize("content", [b"\xd4\xc3\xb2\xa1\x02\x00\x04\x00", b'{"a": 1}\n', b"text\n"])
def test_a_file_that_is_not_a_recording_stays_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(EppingError, match="it is not a recording; give the name of a new file"):
        FileSender(str(path))
    assert path.read_bytes() == content


def test_a_recording_continues_although_its_writer_was_killed_in_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text('{"res\n')
    FileSender(str(path)).send(request("a"))
    assert path.read_text().startswith('{"res\n{"resourceMetrics":[{')


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    path, fifo = tmp_path / "file", tmp_path / "fifo"
    os.mkfifo(fifo)
    for wrong, cause in ((tmp_path, "Is a directory"), (fifo, "not a regular file"), (path / "x", "No such file")):
        with pytest.raises(EppingError, match=f"cannot record to {wrong}: .*{cause}"):
            FileSender(str(wrong))
    with path.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(EppingError, match="another process writes to it"):
            FileSender(str(path))
    FileSender(str(path))
