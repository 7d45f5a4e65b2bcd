# SPDX-License-Identifier: Apache-2.0
"""Runs the agent with `--record`. No counts are lost when the file is renamed, or when the disk is full."""

import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from otel_epping.history.sources.kinds import read_sources
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table
from tests.support.command import converse, environment
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, assert_unprivileged


@pytest.fixture
def disk(ns: Namespace) -> Iterator[Path]:
    """Mounts a small file system. All users may write to this file system."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        ns.run("mount", "-t", "tmpfs", "-o", "size=4m,mode=777", "tmpfs", folder)
        try:
            yield Path(folder)
        finally:
            ns.run("umount", folder)


def fill(path: Path) -> None:
    """Writes a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 4096)


# The server of the conversations. The exports themselves pass between addresses of 127.0.0.0/24.
SERVER, SUBNET = "127.1.0.1", "127.1.0.0/24"


def octets(*paths: Path) -> int:
    """Return the recorded number of bytes of SUBNET."""
    history = read_sources([str(path) for path in paths])
    found = history.total().sum(metric_table.SUBNET_BYTES.name)
    assert found is not None
    return sum(int(found[number]) for number, line in enumerate(history.lines) if line.subnet == SUBNET)


def wait_for_lines(path: Path, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not path.exists() or path.read_bytes().count(b"\n") < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_recording_is_complete_after_a_rename_and_after_a_full_disk(
    ns: Namespace, disk: Path, tmp_path: Path
) -> None:
    path, renamed, log = disk / "record.jsonl", disk / "record.jsonl.1", tmp_path / "log"
    with Sink(namespace=ns) as sink, log.open("w") as stderr:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint, "OTEL_EPPING_RECORD": str(path)}
        agent = ns.popen([*AGENT, "run", "-i", "lo", "--interval", "100ms"], stderr=stderr, env=environment(settings))
        try:
            wait_for_lines(path, 1)
            assert_unprivileged(agent, log="")
            converse(ns, address=SERVER)
            wait_for_lines(path, 3)
            path.rename(renamed)
            converse(ns, address=SERVER)
            wait_for_lines(path, 1)
            fill(disk / "filling")
            deadline = time.monotonic() + PATIENCE_S
            while "cannot record" not in log.read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            converse(ns, address=SERVER)
            (disk / "filling").unlink()
            agent.terminate()
            assert agent.wait(PATIENCE_S) == 0, log.read_text()
        finally:
            agent.kill()
        points = [
            one for one in sink.points(metric_table.SUBNET_BYTES.name) if one.attributes.get("epping.subnet") == SUBNET
        ]
        latest_ns = max(one.point.time_unix_nano for one in points)
        exported = [one for one in points if one.point.time_unix_nano == latest_ns]
    assert octets(renamed, path) == sum(one.point.as_int for one in exported) > 0
    failed = f"record: export failed, counts stay pending for the next export: cannot record to {path}"
    assert f"{failed}: No space left on device" in log.read_text()
    assert set(re.findall(r"(\w+): one export: ", log.read_text())) == {"otlp_proto_grpc", "record"}
    assert "Traceback" not in log.read_text()
    assert all(line.endswith("}") for line in path.read_text().splitlines())


def test_a_recording_needs_no_other_exporter(ns: Namespace, disk: Path) -> None:
    path = disk / "record.jsonl"
    settings = {"OTEL_METRICS_EXPORTER": "none", "OTEL_EPPING_RECORD": str(path)}
    agent = ns.popen([*AGENT, "run", "-i", "lo", "--interval", "100ms"], env=environment(settings))
    try:
        wait_for_lines(path, 1)
        converse(ns, address=SERVER)
        agent.terminate()
        assert agent.wait(PATIENCE_S) == 0
    finally:
        agent.kill()
    assert octets(path) > 4 * 40


def test_a_file_that_cannot_be_opened_is_an_error(ns: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "none" / "record"
    log = tmp_path / "log"
    with log.open("w") as stderr:
        agent = ns.popen([*AGENT, "run", "-i", "lo", "--record", str(path)], stderr=stderr, env=environment({}))
        try:
            assert agent.wait(PATIENCE_S) == 1
        finally:
            agent.kill()
    assert f"cannot record to {path}: Permission denied" in log.read_text()
