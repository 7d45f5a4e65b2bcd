# SPDX-License-Identifier: Apache-2.0
"""Tests that FileWatch reports each change of files once, and only when the change is complete."""

import os
import time
from pathlib import Path

import pytest

from otel_epping.networks import file_watch, files
from otel_epping.networks.file_watch import FileWatch

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


class Clock:
    """The time that FileWatch sees: the real time, and the seconds that were added."""

    def __init__(self) -> None:
        self.added_ns = 0

    def time_ns(self) -> int:
        return time.time_ns() + self.added_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(file_watch, "time", clock)
    return clock


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "names.csv"
    path.write_text("cidr,name\n")
    return path


def checks(watch: FileWatch, clock: Clock, count: int = 4) -> list[bool]:
    """Return the results of calls that are one second apart."""
    results = []
    for _ in range(count):
        clock.added_ns += 1_000_000_000
        results.append(watch.has_changed())
    return results


def test_a_file_that_stays_the_same_is_not_reported(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    assert checks(watch, clock) == [False] * 4


def test_a_change_is_reported_once_after_the_second_check(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    path.write_text("cidr,name\n10.0.0.0/8,A\n")
    assert checks(watch, clock) == [False, True, False, False]
    os.utime(path, ns=(0, 0))
    assert checks(watch, clock) == [False, True, False, False]


def test_a_file_that_is_being_written_is_not_reported(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    for number in range(3):
        with path.open("a") as file:
            file.write(f"10.0.0.{number},A\n")
        clock.added_ns = 0
        assert not watch.has_changed()
        assert not watch.has_changed()  # The file changed less than 1 s ago.
    assert checks(watch, clock, 2) == [True, False]


def test_a_file_that_is_replaced_by_rename_is_reported(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)
    assert checks(watch, clock) == [False, True, False, False]


def test_a_link_that_gets_another_target_is_reported(path: Path, clock: Clock) -> None:
    """Kubernetes replaces the files of a ConfigMap in this way."""
    first, second = path.with_name("1"), path.with_name("2")
    for folder in (first, second):
        folder.mkdir()
        (folder / "names.csv").write_text("cidr,name\n")
    link = path.with_name("data")
    link.symlink_to("1")
    watch = FileWatch(str(link / "names.csv"))
    path.with_name("new").symlink_to("2")
    path.with_name("new").rename(link)
    assert checks(watch, clock) == [False, True, False, False]


def test_removal_and_return_are_reported(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    path.unlink()
    assert checks(watch, clock) == [False, True, False, False]
    path.write_text("cidr,name\n")
    assert checks(watch, clock) == [False, True, False, False]


def test_a_short_absence_is_one_change(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    path.unlink()
    assert checks(watch, clock, 1) == [False]
    path.write_text("cidr,name\n")
    assert checks(watch, clock) == [False, True, False, False]


def test_a_file_that_is_missing_at_the_start_is_reported_when_it_exists(tmp_path: Path, clock: Clock) -> None:
    watch = FileWatch(str(tmp_path / "a"), "a\0b", str(tmp_path / "a" / "b"))
    assert checks(watch, clock) == [False] * 4
    (tmp_path / "a").write_text("")
    assert checks(watch, clock) == [False, True, False, False]


def test_a_file_that_becomes_readable_is_reported(path: Path, clock: Clock) -> None:
    path.chmod(0)
    watch = FileWatch(str(path))
    path.chmod(0o644)
    assert checks(watch, clock) == [False, True, False, False]


def test_a_time_in_the_future_does_not_delay_the_report(path: Path, clock: Clock) -> None:
    watch = FileWatch(str(path))
    path.write_text("")
    clock.added_ns = -3_600_000_000_000
    assert checks(watch, clock) == [False, True, False, False]


def test_network_json_is_watched_too(path: Path, clock: Clock) -> None:
    watch = files.watch(str(path))
    (path.parent / "network.json").write_text("{}")
    assert checks(watch, clock) == [False, True, False, False]


def test_a_watch_needs_no_time_that_the_loop_of_the_agent_would_notice(path: Path) -> None:
    watch = FileWatch(str(path))
    start = time.process_time()
    for _ in range(1000):
        watch.has_changed()
    assert time.process_time() - start < 1  # 0.02 s on a machine that does nothing else
