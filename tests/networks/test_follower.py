# SPDX-License-Identifier: Apache-2.0
"""Tests that a thread reads the file of names and the databases again when they have changed."""

import ipaddress
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.networks import file_watch, files, follower
from otel_epping.networks.follower import FilesFollower
from otel_epping.networks.network import Networks
from tests.support.databases import CLOUDFLARE, GOOGLE, write_database
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S

pytestmark = [pytest.mark.unit, pytest.mark.parallel]

HEADER = "cidr,name\n"
MILLER = "10.1.0.0/28,Miller\n"
BAKERY = "10.2.0.0/28,Bakery\n"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Files are complete after 40 ms instead of 1 s, and are checked each 10 ms instead of each second."""
    monkeypatch.setattr(file_watch, "_SETTLED_NS", 40_000_000)
    monkeypatch.setattr(follower, "_PERIOD_S", 0.01)
    caplog.set_level(logging.INFO)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "networks.csv"
    path.write_text(HEADER + MILLER)
    return path


class Changes:
    """Records the names of the networks at each change. `error` is raised at the next change."""

    def __init__(self) -> None:
        self.names: list[list[str]] = []
        self.error: Exception | None = None

    def __call__(self, networks: Networks) -> None:
        error, self.error = self.error, None
        if error:
            raise error
        self.names.append([network.name for network in networks.networks])


@pytest.fixture
def changes() -> Changes:
    return Changes()


@pytest.fixture
def following(path: Path, changes: Changes) -> Iterator[FilesFollower]:
    with closing(FilesFollower(str(path), files.read, ())) as followed:
        followed.start(changes)
        yield followed


def replace(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def changed(changes: Changes, *names: list[str]) -> None:
    """Waits until the networks have had these names, one list for each change."""
    eventually(lambda: len(changes.names) >= len(names), PATIENCE_S, f"the names are {names}")
    assert changes.names == list(names)


def logged(caplog: pytest.LogCaptureFixture, text: str, times: int = 1) -> None:
    eventually(lambda: caplog.text.count(text) >= times, PATIENCE_S, f"{text!r} is logged {times} times")
    assert caplog.text.count(text) == times, caplog.text


def remove_and_write(path: Path, text: str) -> None:
    path.unlink()
    path.write_text(text)


WAYS: dict[str, Callable[[Path, str], object]] = {
    "renamed": replace,
    "written": lambda path, text: path.write_text(text),
    "removed and written": remove_and_write,
}


@pytest.mark.usefixtures("following")
@pytest.mark.parametrize("way", WAYS)
def test_a_changed_file_is_read_again(path: Path, changes: Changes, caplog: pytest.LogCaptureFixture, way: str) -> None:
    WAYS[way](path, HEADER + MILLER + BAKERY)
    changed(changes, ["Miller", "Bakery"])
    WAYS[way](path, HEADER + BAKERY)
    changed(changes, ["Miller", "Bakery"], ["Bakery"])
    logged(caplog, "2 named networks with 2 prefixes (new: 1, ended: 0)")
    logged(caplog, "1 named networks with 1 prefixes (new: 0, ended: 1)")


@pytest.mark.usefixtures("following")
def test_a_file_is_read_when_it_is_complete(path: Path, changes: Changes) -> None:
    """The writer truncates the file, and writes it in small parts."""
    with path.open("w", buffering=1) as file:
        file.write(HEADER)
        for number in range(100):
            file.write(f"10.1.{number}.0/24,customer {number}\n")
            threading.Event().wait(0.002)
    changed(changes, [f"customer {number}" for number in range(100)])


@pytest.mark.usefixtures("following")
def test_an_invalid_file_changes_nothing_until_it_is_corrected(
    path: Path, changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(HEADER + MILLER + "10.3.0.0/99,Nobody\n10.4.0.0,\n")
    logged(caplog, f"the named networks are unchanged: {path}:3: ")
    assert f"; {path}:4: " in caplog.text
    path.unlink()
    logged(caplog, f"the named networks are unchanged: {path} does not exist")
    path.write_text(HEADER + MILLER)
    logged(caplog, f"read {path} again: no network has changed")
    assert not changes.names
    path.write_text(HEADER + BAKERY)
    changed(changes, ["Bakery"])
    assert caplog.text.count("the named networks are unchanged") == 2


@pytest.mark.parametrize("error", [EppingError("no room"), OSError(12, "no room"), MemoryError("no room"), KeyError(1)])
def test_a_change_that_fails_is_repeated_at_the_next_reload(
    path: Path, following: FilesFollower, changes: Changes, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    changes.error = error
    path.write_text(HEADER + BAKERY)
    logged(caplog, "the named networks are unchanged")
    assert [network.name for network in (following.networks or Networks()).networks] == ["Miller"]
    done = threading.Event()
    following.reload(str(path), done.set)
    assert done.wait(PATIENCE_S)
    assert changes.names == [["Bakery"]]


def test_a_reload_follows_another_file(
    path: Path, following: FilesFollower, changes: Changes, caplog: pytest.LogCaptureFixture
) -> None:
    other, done = path.with_name("other.csv"), threading.Event()
    following.reload(str(other), done.set)
    assert done.wait(PATIENCE_S)
    logged(caplog, f"the named networks are unchanged: {other} does not exist")
    replace(path, HEADER)  # the old file is no longer read
    other.write_text(HEADER + BAKERY)
    changed(changes, ["Bakery"])
    assert caplog.text.count("unchanged") == 1


def test_a_change_between_the_first_reading_and_the_start_is_noticed(path: Path, changes: Changes) -> None:
    with closing(FilesFollower(str(path), files.read, ())) as followed:
        path.write_text(HEADER + BAKERY)
        followed.start(changes)
        changed(changes, ["Bakery"])


def test_an_invalid_file_is_an_error_at_the_start(path: Path) -> None:
    path.write_text("nonsense\n")
    with pytest.raises(EppingError, match=f"{path}:1: "):
        FilesFollower(str(path), files.read, ())
    with pytest.raises(EppingError, match="is not in MaxMind format"):
        FilesFollower(None, files.read, (str(path),))


def test_without_files_there_is_no_thread(changes: Changes) -> None:
    with closing(FilesFollower(None, files.read, ())) as followed:
        before = threading.active_count()
        followed.start(changes)
        assert threading.active_count() == before
        assert not followed.networks
        assert not followed.databases


def test_a_replaced_database_is_read_again(tmp_path: Path, changes: Changes, caplog: pytest.LogCaptureFixture) -> None:
    path = Path(write_database(tmp_path / "asn.mmdb", {"8.8.8.0/24": GOOGLE}))
    with closing(FilesFollower(None, files.read, (str(path),))) as followed:
        followed.start(changes)
        assert followed.databases
        databases, subnet = followed.databases, [ipaddress.ip_network("8.8.8.0/24")]
        assert databases.of(subnet).as_number == 15169
        replace(path, "nonsense")
        logged(caplog, f"{path} is not in MaxMind format")
        assert databases.of(subnet).as_number == 15169
        write_database(path.with_suffix(".new"), {"8.8.8.0/24": CLOUDFLARE})
        path.with_suffix(".new").replace(path)
        eventually(lambda: databases.of(subnet).as_number == 13335, PATIENCE_S, "the new database is in use")
    assert not changes.names
