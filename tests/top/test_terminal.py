# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping top` in a real terminal, with real traffic of the lab."""

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from otel_epping.lab.topology import WAN_INTERFACE, Lab
from otel_epping.lab.traffic import finish
from tests.support.captures import packet, pcap
from tests.support.conversation import Conversation
from tests.support.link_types import LINKS
from tests.support.patience import becomes
from tests.support.unprivileged import assert_holds_nothing
from tests.top.test_batch import handles
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


def pid_of_top(terminal: Terminal) -> int:
    """Wait until the process of the command exists, and return the process."""
    found: list[int] = []

    def find() -> int:
        found[:] = [
            pid
            for pid in terminal.pids
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(sys.executable.encode())
        ]
        return len(found)

    becomes(find, 1)
    return found[0]


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
        os.kill(pid_of_top(terminal), number)
        assert_restored(terminal)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_program_is_loaded(lab: Lab, tmp_path: Path, number: signal.Signals) -> None:
    with top(lab, tmp_path, (80, 24), UTF_8) as terminal:
        becomes(lambda: handles(pid_of_top(terminal), signal.SIGTERM), True)
        os.kill(pid_of_top(terminal), number)
        text = terminal.shows("EXIT")
        # The signal can also arrive when the screen has just started.
        assert f"stopped before the first table\nEXIT {128 + number}" in text or "EXIT 0" in text
        assert_restored(terminal)


def test_keys_pressed_while_the_program_is_loaded(lab: Lab, tmp_path: Path) -> None:
    with top(lab, tmp_path, (80, 24), UTF_8) as terminal:
        becomes(lambda: handles(pid_of_top(terminal), signal.SIGTERM), True)
        terminal.press("2")
        terminal.shows("p95 - minimum RTT")
        terminal.press("q")
        assert_restored(terminal)


def test_ctrl_c_while_a_capture_is_read(lab: Lab, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless.pcap")
    with top(lab, tmp_path, (80, 24), UTF_8, str(tmp_path / "endless.pcap")) as terminal:
        with (tmp_path / "endless.pcap").open("wb") as fifo:
            fifo.write(pcap([packet(number) for number in range(1000)]))
            fifo.flush()
            terminal.press("C-c")
            assert "stopped before the first table\nEXIT 130" in terminal.shows("EXIT")
        assert_restored(terminal)


def test_a_damaged_capture_is_explained_on_the_screen_and_at_the_end(lab: Lab, tmp_path: Path) -> None:
    talk = Conversation(1)
    (tmp_path / "cut.pcap").write_bytes(pcap(talk.packets(*LINKS["ethernet"]))[:-20])
    with top(lab, tmp_path, (160, 24), UTF_8, str(tmp_path / "cut.pcap")) as terminal:
        terminal.shows(talk.server, "cut.pcap: is truncated in the middle of a packet, at byte")
        terminal.press("Escape")
        terminal.becomes(lambda text: "is truncated" not in text and "? help" in text, "the keys in the last line")
        terminal.press("q")
        assert "is truncated in the middle of a packet" in terminal.shows("EXIT 1")
        assert_restored(terminal)


def test_a_terminal_without_a_screen_is_refused(lab: Lab, tmp_path: Path) -> None:
    with top(lab, tmp_path, (80, 24), UTF_8 | {"TERM": "dumb"}) as terminal:
        assert "the terminal cannot show a screen (TERM=dumb): use --batch" in terminal.shows("EXIT 1")


def test_a_tiny_terminal_and_many_sizes(traffic: Lab, tmp_path: Path) -> None:
    with top(traffic, tmp_path, (20, 5), UTF_8, f"-i {WAN_INTERFACE} -d 100ms") as terminal:
        terminal.shows("wan0", "p95", "rows 1-")
        for number in range(60):
            terminal.resize(20 + number * 3, 5 + number % 40)
            terminal.press("s" if number % 3 else "j")
        terminal.resize(80, 24)
        terminal.shows("198.18.3.0/24", "coverage", "1 networks")
        terminal.press("q")
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


def test_a_terminal_that_accepts_no_output_and_disappears(tmp_path: Path) -> None:
    """The process ends, although its output waits, and although many signals wait: SIGWINCH, SIGHUP and SIGCONT."""
    (tmp_path / "one.pcap").write_bytes(pcap(Conversation(1).packets(*LINKS["ethernet"])))
    command = [sys.executable, "-m", "otel_epping", "top", "--max-subnets", "1000", str(tmp_path / "one.pcap")]
    pid, terminal = pty.fork()
    if not pid:
        os.execve(sys.executable, command, {**os.environ, "TERM": "xterm-256color", **UTF_8})
    shown = b""
    while b"impact" not in shown:
        shown += os.read(terminal, 2**16)
    os.kill(pid, signal.SIGCONT)
    for number in range(400):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 20 + number % 40, 60 + number % 100, 0, 0))
        time.sleep(0.005)
    os.close(terminal)
    becomes(lambda: os.waitpid(pid, os.WNOHANG), (pid, 0))


def test_a_suspended_screen_is_restored(traffic: Lab, tmp_path: Path) -> None:
    with top(traffic, tmp_path, (80, 24), UTF_8) as terminal:
        terminal.shows("198.18.3.0/24")
        os.kill(pid_of_top(terminal), signal.SIGTSTP)
        terminal.becomes(lambda text: "198.18.3.0/24" not in text, "the end of the screen")
        os.kill(pid_of_top(terminal), signal.SIGCONT)
        terminal.shows("198.18.3.0/24")
        terminal.press("q")
        terminal.shows("EXIT 0")
