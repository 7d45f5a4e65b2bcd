# SPDX-License-Identifier: Apache-2.0
"""What a user types: help, options, variables, and where the output goes. One line says what is wrong and allowed."""

import re
import sys

import pytest
from command import COMMAND, epping, said

from otel_epping.lab.namespaces import Namespace
from otel_epping.version import __version__


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
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_say_what_is_allowed(ns: Namespace, arguments: list[str], cure: str) -> None:
    result = epping(ns, *arguments)
    line = said(result)
    assert result.returncode == 2
    assert cure in line
    for option in arguments[-2:-1]:
        if option.startswith("--"):
            assert option in line


# Option, a value that its variable must not have, one that it may have.
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
    assert f"'--{option}'" in said(epping(ns, "run", settings=settings))


def test_variable_with_several_interfaces(ns: Namespace) -> None:
    assert "no interface 'nope'" in said(epping(ns, "run", settings={"OTEL_EPPING_INTERFACE": "lo, nope"}))


def test_flags_win_over_variables(ns: Namespace) -> None:
    settings = {variable(option): bad for option, bad, _ in OPTIONS} | {"OTEL_EPPING_INTERFACE": "lo"}
    flags = [f"--{option}={good}" for option, _, good in OPTIONS]
    # With these flags all options are good, and the next thing to complain of is the interface.
    assert "no interface 'nope'" in said(epping(ns, "run", "--interface", "nope", *flags, settings=settings))


@pytest.mark.parametrize(
    "line",
    ["check | head -n 1", "check | true", "check <&-", "--help | true", "run -i nope 2>&-", "check >/dev/full"],
)
def test_streams_that_are_closed(ns: Namespace, line: str) -> None:
    arguments, redirection = re.fullmatch(r"([^|<>2]+?)( [|<>2].*)", line).groups()  # type: ignore[union-attr]
    script = f'"$@" {arguments}{redirection}'
    result = epping(ns, command=["sh", "-c", script, "sh", *COMMAND])
    assert "Exception" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1


@pytest.mark.parametrize("streams", [">/dev/full", "2>/dev/full", ">/dev/full 2>&1"])
def test_output_that_a_full_disk_refuses_does_not_hide_a_mistake(ns: Namespace, streams: str) -> None:
    """The output is still in the buffer when the command fails: up to 8 KiB, and 128 KiB from Python 3.14 on."""
    program = "print('in the buffer'); from otel_epping.__main__ import main; main()"
    shell = ["sh", "-c", f'unset PYTHONUNBUFFERED; exec "$@" {streams}', "sh", sys.executable, "-c", program]
    result = epping(ns, "run", "-i", "nope", command=shell)
    assert result.returncode == 1
    if streams == ">/dev/full":
        assert "no interface 'nope'" in said(result)
        assert len(result.stderr.splitlines()) == 1
    else:
        assert result.stderr == ""
