# SPDX-License-Identifier: Apache-2.0
"""Tests Ctrl-C during the start, a second signal during the stop, and one signal that arrives twice."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from tests.support.command import Agent, environment
from tests.support.patience import PATIENCE_S, stays
from tests.support.unprivileged import CAPABLE_NOBODY, as_nobody

# With -X importtime, Python writes a line after each import of a module. The line starts with the text IMPORTED.
IMPORTED = "import time:"
RUN = ("run", "-i", "lo")


def interrupted(ns: Namespace, *arguments: str, at: str) -> tuple[int, list[str]]:
    """Press Ctrl-C when the program has imported the module that `at` names. Return the exit status and the output.

    The test sends the signal to the whole process group, as a terminal does.
    """
    python = ("-X", "importtime", "-m", "otel_epping", *arguments)
    # `replay` runs as root to read pytest's files. `demo` runs as root to create network namespaces.
    command = as_nobody(CAPABLE_NOBODY, *python) if arguments[0] in ("run", "watch") else [sys.executable, *python]
    settings = environment({"OTEL_METRICS_EXPORTER": "console,otlp"})
    process = ns.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings)
    assert process.stderr
    output = []
    for line in process.stderr:
        output.append(line)
        if line.split("|")[-1].strip() == at:
            os.killpg(process.pid, signal.SIGINT)
            break
    rest = process.communicate(timeout=PATIENCE_S)[1]
    output += rest.splitlines(keepends=True)
    assert any(line.split("|")[-1].strip() == at for line in output), f"{at} was not imported"
    return process.returncode, [line for line in output if not line.startswith(IMPORTED)]


@pytest.mark.parametrize(
    ("arguments", "at"),
    [
        (RUN, "click.globals"),
        (RUN, "numpy._core.multiarray"),
        (RUN, "otel_epping.settings.options"),
        (("watch", "-i", "lo"), "otel_epping.kernel.map_array"),
        (("replay", "/dev/null"), "opentelemetry.sdk.metrics"),
        (("demo",), "rich.console"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else value,
)
def test_ctrl_c_during_imports_ends_the_command(ns: Namespace, arguments: tuple[str, ...], at: str) -> None:
    """After Python has started to import otel_epping, Ctrl-C gives no traceback.

    If Ctrl-C comes before the import of otel_epping, Python itself may print a traceback.
    """
    assert interrupted(ns, *arguments, at=at) == (-signal.SIGINT, [])


@pytest.mark.parametrize("at", ["opentelemetry.sdk.metrics", "grpc._cython.cygrpc"])
def test_ctrl_c_during_the_compilation(ns: Namespace, at: str) -> None:
    """During the compilation, the agent imports modules that it will need after the compilation."""
    status, output = interrupted(ns, *RUN, at=at)
    assert status == 0
    (line,) = output
    assert line.endswith("stopped before an interface was watched\n")


@pytest.fixture
def black_hole(ns: Namespace) -> Iterator[str]:
    """An endpoint that accepts connections and never answers."""
    with ns.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_second_signal_ends_the_agent_at_once(start: Callable[..., Agent], black_hole: str) -> None:
    agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=black_hole)
    agent.process.send_signal(signal.SIGTERM)
    agent.wait_for("stopping")
    stays(lambda: agent.process.poll() is None, 1.2, "the agent waits for the receiver")
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(PATIENCE_S) == 128 + signal.SIGINT
    assert agent.log.read_text().splitlines()[-1].startswith("otel-epping: stopped at once")


def test_a_signal_that_arrives_twice_counts_once(ns: Namespace, start: Callable[..., Agent]) -> None:
    """timeout(1) sends the signal first to its child, and then to the child's process group.

    So the child gets the signal twice.
    """
    with Sink(namespace=ns) as sink:
        agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        agent.process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(PATIENCE_S) == 0, agent.log.read_text()
        assert sink.requests
