# SPDX-License-Identifier: Apache-2.0
"""Tests standard streams that are closed or full, or that have a narrow encoding.

Commands end in the same way as with normal streams.
"""

import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from tests.support.command import COMMAND, environment, epping, said
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT, innermost

pytestmark = pytest.mark.parallel


CLOSED = ("<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-")
COMMANDS = {
    ("--version",): 0,
    ("config",): 0,
    ("check",): 0,
    ("runn",): 2,
    ("replay", "/nope"): 1,
    ("watch", "-i", "nope"): 1,
}


def redirected(redirections: str, command: list[str]) -> list[str]:
    """Return a shell command that runs `command` with `redirections`."""
    return ["sh", "-c", f'exec "$0" "$@" {redirections}', *command]


@pytest.mark.parametrize("streams", [*CLOSED, "2>/dev/full", "<&- >/dev/null 2>/dev/full"])
@pytest.mark.parametrize("arguments", COMMANDS)
def test_commands_end_as_with_open_streams(ns: Namespace, arguments: tuple[str, ...], streams: str) -> None:
    result = epping(ns, *arguments, command=redirected(streams, COMMAND))
    assert result.returncode == COMMANDS[arguments]
    assert "uncaught" not in result.stderr


def is_ready(ns: Namespace) -> bool:
    """Return true if the agent's probe says that the agent is ready."""
    try:
        with ns.entered(), urllib.request.urlopen("http://127.0.0.1:9871/readyz") as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.parametrize("streams", CLOSED)
def test_an_agent_works_and_opens_no_file_as_a_standard_stream(ns: Namespace, streams: str) -> None:
    """The agent's standard error may be closed, so the test reads the probe instead of the log."""
    command = redirected(streams, [*AGENT, "run", "-i", "lo", "--health-port", "9871"])
    with ns.popen(command, env=environment({"OTEL_METRICS_EXPORTER": "console"}), stdin=subprocess.DEVNULL) as agent:
        try:
            eventually(lambda: is_ready(ns), PATIENCE_S, "the agent is ready")
            pid = innermost(agent.pid)
            closed = [fd for fd, each in enumerate(("<&-", ">&-", "2>&-")) if each in streams.split()]
            assert all(Path(f"/proc/{pid}/fd/{fd}").samefile("/dev/null") for fd in closed)
        finally:
            agent.terminate()
        assert agent.wait(PATIENCE_S) == 0


LIBRARY = """
import sys
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
EppingCollector(EppingConfig(max_subnets=64, max_flows=64)).close()
sys.exit(7)
"""


@pytest.mark.parametrize("streams", CLOSED)
def test_an_application_that_has_closed_its_streams_can_load_the_program(streams: str) -> None:
    done = subprocess.run(redirected(streams, [sys.executable, "-c", LIBRARY]), check=False, timeout=PATIENCE_S)
    assert done.returncode == 7


def test_characters_that_the_encoding_lacks_are_escaped(ns: Namespace) -> None:
    narrow = ["env", "PYTHONIOENCODING=latin-1:strict", *COMMAND]
    result = epping(ns, "config", "-i", "ca→f", "--health-address", os.fsdecode(b"\xe9"), command=narrow)
    assert result.returncode == 0, result.stderr
    assert r"ca\u2192f" in result.stdout
    assert r"there is no interface 'ca\u2192f'" in said(epping(ns, "run", "-i", "ca→f", command=narrow))


def test_a_full_disk_is_reported(ns: Namespace) -> None:
    for arguments in (("--help",), ("check",), ("config", "--schema")):
        result = epping(ns, *arguments, command=redirected(">/dev/full", COMMAND))
        assert result.returncode == 1
        assert result.stderr == "otel-epping: cannot write standard output (No space left on device)\n"
