# SPDX-License-Identifier: Apache-2.0
"""Runs the agent with a full disk.

The agent writes its log and the output of the console exporter. test_record.py tests `--record` with a full disk.
"""

import subprocess
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table
from tests.support.command import converse, environment
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, assert_unprivileged

FULL = Path("/dev/full")


@pytest.mark.parametrize("full", ["stderr", "stdout", "both"])
def test_counts_are_exported_while_the_disk_is_full(ns: Namespace, tmp_path: Path, full: str) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    with (
        Sink(namespace=ns) as sink,
        (log if full == "stdout" else FULL).open("w") as stderr,
        (out if full == "stderr" else FULL).open("w") as stdout,
    ):
        settings = {"OTEL_METRICS_EXPORTER": "otlp,console", "OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        agent = ns.popen(
            [*AGENT, "run", "-i", "lo", "--interval", "100ms"],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env=environment(settings),
        )
        try:
            sink.wait_for(lambda one: len(one.received) >= 2, PATIENCE_S)
            assert_unprivileged(agent, log="")
            converse(ns)
            sink.wait_for(lambda one: len(one.received) >= 8, PATIENCE_S)
            agent.terminate()
            code = agent.wait(PATIENCE_S)
        finally:
            agent.kill()
        latest_ns = max(one.point.time_unix_nano for one in sink.points(metric_table.SUBNET_PACKETS.name))
        latest = [one for one in sink.points(metric_table.SUBNET_PACKETS.name) if one.point.time_unix_nano == latest_ns]
        assert sum(one.point.as_int for one in latest) > 4 * 40
    # If a write to standard error fails, the agent cannot report the failure. The exit code is 1 if output of the
    # console exporter was lost.
    assert code == (0 if full == "stderr" else 1)
    if full == "stderr":
        assert out.read_text().count("resource_metrics") >= 8
    if full == "stdout":
        lines = log.read_text().splitlines()
        assert "Traceback" not in log.read_text()
        assert sum("No space left on device" in line for line in lines) == 1
        assert lines[-1].startswith("otel-epping: the last interval was not delivered")
