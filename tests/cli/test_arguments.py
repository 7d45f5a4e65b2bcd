# SPDX-License-Identifier: Apache-2.0
"""Tests help texts, options, variables and redirected output. Errors name the cause and the valid values."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.version import __version__
from tests.support.command import COMMAND, Agent, epping, said

pytestmark = pytest.mark.parallel


def test_help(ns: Namespace) -> None:
    result = epping(ns, "--help")
    assert result.returncode == 0
    for command in ("run", "check", "demo"):
        assert f"\n  {command} " in result.stdout
    options = epping(ns, "run", "--help").stdout
    for option in ("interface", "interval", "prefix-v4", "prefix-v6", "sample-interval", "max-age", "scale"):
        assert f"--{option} " in options


def test_version(ns: Namespace) -> None:
    assert epping(ns, "--version").stdout == f"otel-epping, version {__version__}\n"


def test_no_arguments_show_the_help(ns: Namespace) -> None:
    result = epping(ns)
    assert result.returncode == 2
    assert "Commands:" in result.stderr


TIME = "is not a time such as 100ms, 2.5s or 1m"


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["runn"], "No such command 'runn'"),
        (["--verbose"], "No such option '--verbose'"),
        (["run"], "Missing option '-i'"),
        (["run", "-i"], "requires an argument"),
        (["run", "-i", "lo", "eth0"], "unexpected extra argument (eth0)"),
        (["run", "-i", "lo", "--speed", "1"], "No such option '--speed'"),
        (["run", "-i", "lo", "--interval", "5 parsecs"], TIME),
        (["run", "-i", "lo", "--interval", "-1s"], TIME),
        (["run", "-i", "lo", "--interval", ""], TIME),
        (["run", "-i", "lo", "--interval", "0"], "from 0.001s to 86400s"),
        (["run", "-i", "lo", "--interval", "999999999m"], "from 0.001s to 86400s"),
        (["run", "-i", "lo", "--interval", "9" * 400], "from 0.001s to 86400s"),
        (["check", "--sample-interval", "5 parsecs"], TIME),
        (["check", "--sample-interval", "65s"], "from 0s to 64s"),
        (["check", "--max-age", "0"], "from 0.001s to 600s"),
        (["check", "--max-age", "601s"], "from 0.001s to 600s"),
        (["check", "--scale", "7"], "0<=x<=6"),
        (["check", "--scale", "-1"], "0<=x<=6"),
        (["check", "--prefix-v4", "33"], "0<=x<=32"),
        (["check", "--prefix-v6", "129"], "0<=x<=128"),
        (["check", "--prefix-v6", "/48"], "not a valid integer"),
        (["check", "--max-subnets", "0"], "1<=x<=4000000"),
        (["check", "--max-subnets", "4000001"], "1<=x<=4000000"),
        (["check", "--max-flows", "63"], "64<=x<=16000000"),
        (["demo", "--fast"], "No such option '--fast'"),
        (["report", "-o", "-", "--loss", "nan"], "'nan' is not a number"),
        (["report", "-o", "-", "--loss", "inf"], "0<=x<=100"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_errors_for_bad_arguments_list_the_valid_values(ns: Namespace, arguments: list[str], cure: str) -> None:
    result = epping(ns, *arguments)
    line = said(result)
    assert result.returncode == 2
    assert cure in line
    for option in arguments[-2:-1]:
        if option.startswith("--"):
            assert option in line


# (option, an invalid value, a valid value)
OPTIONS = [
    ("interval", "5 parsecs", "1m"),
    ("sample-interval", "soon", "0"),
    ("max-age", "0", "1s"),
    ("scale", "7", "6"),
    ("prefix-v4", "33", "32"),
    ("prefix-v6", "129", "0"),
    ("max-subnets", "0", "1"),
    ("max-flows", "0", "64"),
]


def variable(option: str) -> str:
    return "OTEL_EPPING_" + option.upper().replace("-", "_")


@pytest.mark.parametrize(("option", "bad"), [row[:2] for row in OPTIONS])
def test_variables_set_options(ns: Namespace, option: str, bad: str) -> None:
    settings = {"OTEL_EPPING_INTERFACE": "lo", variable(option): bad}
    words = said(epping(ns, "run", settings=settings))
    assert f"variable {variable(option)}: " in words
    assert f"--{option}" not in words


@pytest.mark.parametrize(
    ("arguments", "name", "value"),
    [
        (["check"], "VERBOSE", "perhaps"),
        (["config"], "SCHEMA", "perhaps"),
        (["config"], "HEALTH_PORT", "http"),
        (["config"], "METHODS", "ping"),
        (["replay", "x.pcap"], "FORMAT", "xml"),
        (["watch", "-i", "lo"], "FORMAT", "xml"),
        (["watch"], "INTERFACE", "/(/"),
    ],
)
def test_an_error_names_the_variable_of_the_value(ns: Namespace, arguments: list[str], name: str, value: str) -> None:
    words = said(epping(ns, *arguments, settings={f"OTEL_EPPING_{name}": value}))
    assert words.startswith(f"Invalid value for variable OTEL_EPPING_{name}: ")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("INTERFACE", "nope", "there is no interface 'nope'"),
        ("LAN", "nope", "there is no interface 'nope'"),
        ("ATTRIBUTES", "ecn=side,direction,ecn", "attributes are selected for group ecn"),
        ("CONFIG", "/nope/settings.yaml", "cannot read /nope/settings.yaml"),
    ],
)
def test_a_value_that_the_command_rejects_is_reported_with_its_variable(
    ns: Namespace, name: str, value: str, words: str
) -> None:
    settings = {"OTEL_EPPING_INTERFACE": "lo", f"OTEL_EPPING_{name}": value}
    assert said(epping(ns, "run", settings=settings)).startswith(f"OTEL_EPPING_{name}: {words}")
    if name == "INTERFACE":
        assert said(epping(ns, "watch", settings=settings)).startswith(f"OTEL_EPPING_{name}: {words}")


def test_an_unknown_interface_is_reported_with_its_line_in_the_file(ns: Namespace, public: Path) -> None:
    path = public / "settings.yaml"
    path.write_text("scale: 3\ninterface: nope\n")
    assert said(epping(ns, "run", "--config", str(path))).startswith(f"{path}:2: there is no interface 'nope'")


SERVICES = {
    "HEALTH_PORT": "tcp://10.0.0.5:8080",
    "HEALTH_PORT_8080_TCP": "tcp://10.0.0.5:8080",
    "HEALTH_PORT_8080_TCP_ADDR": "10.0.0.5",
    "HEALTH_SERVICE_HOST": "10.0.0.5",
    "HEALTH_SERVICE_PORT": "8080",
    "HEALTH_SERVICE_PORT_PROBES": "8080",
    "PORT": "udp://[fd00::5]:53",
    "SERVICE_HOST": "10.0.0.5",
}


def test_variables_that_kubernetes_sets_for_a_service_are_ignored(ns: Namespace, start: Callable[..., Agent]) -> None:
    """The test sets the variables of two Kubernetes Services, which are called otel-epping-health and otel-epping."""
    variables = {f"OTEL_EPPING_{name}": value for name, value in SERVICES.items()}
    assert re.search(r"^health_port: null +# default$", epping(ns, "config", settings=variables).stdout, re.M)
    agent = start("-i", "lo", "--log-level", "debug", OTEL_METRICS_EXPORTER="console", **variables)
    for name, value in variables.items():
        assert f"ignored a variable that Kubernetes sets for a Service: {name}={value}\n" in agent.log.read_text()
    assert agent.stop() == 0


def test_only_the_form_of_a_service_is_ignored(ns: Namespace) -> None:
    for value in ("tcp://", "10.0.0.5:8080", "tcp:8080", "http://10.0.0.5:8080"):
        assert "OTEL_EPPING_HEALTH_PORT" in said(epping(ns, "config", settings={"OTEL_EPPING_HEALTH_PORT": value}))


def test_variable_with_several_interfaces(ns: Namespace) -> None:
    assert "no interface 'nope'" in said(epping(ns, "run", settings={"OTEL_EPPING_INTERFACE": "lo, nope"}))


@pytest.mark.parametrize("name", ["INTERFACE", "LAN", "MIRROR"])
def test_an_unknown_interface_is_reported_with_its_variable(ns: Namespace, name: str) -> None:
    words = said(epping(ns, "run", settings={f"OTEL_EPPING_{name}": "nope"}))
    assert words.startswith(f"OTEL_EPPING_{name}: there is no interface 'nope'")


def test_flags_override_variables(ns: Namespace) -> None:
    settings = {variable(option): bad for option, bad, _ in OPTIONS} | {"OTEL_EPPING_INTERFACE": "lo"}
    flags = [f"--{option}={good}" for option, _, good in OPTIONS]
    # The flags override all variables that have invalid values, so the only error is about the interface.
    assert "no interface 'nope'" in said(epping(ns, "run", "--interface", "nope", *flags, settings=settings))


@pytest.mark.parametrize(
    "line",
    ["check | head -n 1", "check | true", "check <&-", "--help | true", "run -i nope 2>&-", "check >/dev/full"],
)
def test_streams_that_are_closed_or_full_give_at_most_one_line(ns: Namespace, line: str) -> None:
    arguments, redirection = re.fullmatch(r"([^|<>2]+?)( [|<>2].*)", line).groups()  # type: ignore[union-attr]
    script = f'"$@" {arguments}{redirection}'
    result = epping(ns, command=["sh", "-c", script, "sh", *COMMAND])
    assert "Exception" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1


@pytest.mark.parametrize("streams", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_a_full_disk_does_not_hide_the_error(ns: Namespace, streams: str) -> None:
    """When the command fails, its output is still in the buffer of standard output.

    The buffer holds up to 8 KiB before Python 3.14, and up to 128 KiB from Python 3.14 on.
    """
    program = "print('in the buffer'); from otel_epping.__main__ import main; main()"
    shell = ["sh", "-c", f'unset PYTHONUNBUFFERED; exec "$@" {streams}', "sh", sys.executable, "-c", program]
    result = epping(ns, "run", "-i", "nope", command=shell)
    assert result.returncode == 1
    if streams == ">/dev/full":
        assert "no interface 'nope'" in said(result)
        assert len(result.stderr.splitlines()) == 1
    else:
        assert result.stderr == ""
