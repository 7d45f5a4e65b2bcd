# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping top` in a real terminal, with real traffic of the lab."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_epping.lab.topology import WAN_INTERFACE, Lab
from otel_epping.lab.traffic import finish
from tests.support.patience import becomes
from tests.support.unprivileged import assert_holds_nothing
from tests.top.tmux import Terminal

TOP = f"{sys.executable} -m otel_epping top --max-subnets 1000 --max-flows 4000 -d 500ms"
UTF_8, POSIX = {"LC_ALL": "C.UTF-8"}, {"LANG": "C"}
# SGR codes of colours: the parameters 30 to 37, 40 to 47, 90 to 107, 38 and 48.
COLOUR = re.compile(r"\x1b\[(?:[\d;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[\d;]*)?m")


@pytest.fixture
def traffic(lab: Lab) -> Iterator[Lab]:
    """The lab, with connections to all servers."""
    talking = lab.talk(lab.client)
    yield lab
    finish(talking)


@contextmanager
def top(
    lab: Lab, tmp_path: Path, size: tuple[int, int], environment: dict[str, str], options: str = f"-i {WAN_INTERFACE}"
) -> Iterator[Terminal]:
    with Terminal(lab.router, tmp_path / "tmux", f"{TOP} {options}", size, environment) as terminal:
        yield terminal


def assert_restored(terminal: Terminal) -> None:
    """Check that the terminal was restored: no alternate screen, no mouse, a visible cursor, and lines with echo."""
    text = terminal.shows("EXIT", "icanon")
    assert "Traceback" not in text
    assert "-icanon" not in text
    assert " echo " in text
    assert terminal.state("alternate_on", "mouse_any_flag", "cursor_flag") == ["0", "0", "1"]


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_networks_keys_and_sizes(traffic: Lab, tmp_path: Path, size: tuple[int, int]) -> None:
    with top(traffic, tmp_path, size, UTF_8) as terminal:
        text = terminal.shows("198.18.3.0/24", "2001:db8:1::/48", "192.0.2.0/24", "coverage")
        assert "Worst:" in text or "No network" in text
        assert terminal.state("alternate_on", "mouse_any_flag") == ["1", "1"]
        assert COLOUR.search(terminal.styled)
        assert set(text) & set("▁▂▃▄▅▆▇█")
        assert ("cover%" in text) == (size[0] == 200), text
        for pid in terminal.pids[1:]:
            if b"otel_epping" in Path(f"/proc/{pid}/cmdline").read_bytes():
                assert_holds_nothing(pid)
        terminal.press("s", "s")
        terminal.shows("sort p95")
        terminal.becomes(lambda text: "198.18.3.0/24" in text.splitlines()[5], "the slowest network in the first row")
        terminal.press("Enter")
        terminal.shows("198.18.3.0/24, side external", "tcp_timestamp")
        terminal.press("Escape")
        terminal.shows("impact")
        for key, word in (("2", "p95 - minimum RTT"), ("3", "Features of the traffic"), ("4", "Faults"), ("?", "Keys")):
            terminal.press(key)
            terminal.shows(word)
        terminal.press("?", "1", "/")
        terminal.press("p95>150 net:198.18.0.0/15", "Enter")
        terminal.becomes(lambda text: "192.0.2.0/24" not in text and "198.18.3.0/24" in text, "only matching networks")
        terminal.press("r")
        terminal.resize(120, 30)
        terminal.shows("loss%", "192.0.2.0/24")
        terminal.resize(30, 8)
        terminal.shows("wan0", "p95")
        terminal.resize(*size)
        terminal.shows("192.0.2.0/24")
        terminal.press("C-c")
        assert "EXIT 0" in terminal.shows("EXIT")
        assert_restored(terminal)


def test_without_colour_and_without_unicode(traffic: Lab, tmp_path: Path) -> None:
    with top(traffic, tmp_path, (80, 24), POSIX | {"NO_COLOR": "1"}) as terminal:
        terminal.shows("198.18.3.0/24")
        for key in ("1", "2", "3", "4", "?", "?", "1", "Enter"):
            terminal.press(key)
            text, styled = terminal.shows("wan0"), terminal.styled
            assert text.isascii()
            assert not COLOUR.search(styled), repr(COLOUR.search(styled))
        terminal.press("q")
        assert_restored(terminal)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(traffic: Lab, tmp_path: Path, number: signal.Signals) -> None:
    with top(traffic, tmp_path, (80, 24), UTF_8) as terminal:
        terminal.shows("198.18.3.0/24")
        (pid,) = [
            pid
            for pid in terminal.pids
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode())
        ]
        os.kill(pid, number)
        assert_restored(terminal)


def test_the_command_ends_with_its_terminal(traffic: Lab, tmp_path: Path) -> None:
    with top(traffic, tmp_path, (80, 24), UTF_8) as terminal:
        terminal.shows("198.18.3.0/24")
        pids = terminal.pids
    becomes(lambda: [pid for pid in pids if Path(f"/proc/{pid}").exists()], [])


def test_the_table_stays_after_a_large_q(traffic: Lab, tmp_path: Path) -> None:
    with top(traffic, tmp_path, (80, 40), UTF_8) as terminal:
        terminal.shows("198.18.3.0/24")
        terminal.press("Q")
        assert "198.18.3.0/24" in terminal.shows("EXIT 0")


def test_an_interface_without_traffic_or_that_is_down_is_explained(traffic: Lab, tmp_path: Path) -> None:
    traffic.router.ip("link add quiet0 type veth peer name quiet1", "link set quiet0 up", "link set quiet1 up")
    try:
        with top(traffic, tmp_path, (160, 24), UTF_8, "-i quiet0") as terminal:
            terminal.shows("No packet was seen on quiet0", "wan0 (")
            traffic.router.ip("link set quiet0 down")
            terminal.shows("quiet0 is down")
    finally:
        traffic.router.ip("link delete quiet0")
