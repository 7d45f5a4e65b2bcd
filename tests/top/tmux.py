# SPDX-License-Identifier: Apache-2.0
"""Runs commands in a real terminal, which is a pane of tmux, in a network namespace."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from otel_epping.lab.namespaces import Namespace
from tests.support.patience import PATIENCE_S


class Terminal:
    """A terminal. The command runs in `namespace`. At the end, the terminal shows the exit code and `stty -a`."""

    def __init__(
        self, namespace: Namespace, socket: Path, command: str, size: tuple[int, int], environment: dict[str, str]
    ) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self._server = namespace.popen([*self._tmux, "-D"])
        while not socket.exists():
            assert self._server.poll() is None, "tmux did not start"
            time.sleep(0.05)
        variables = " ".join(f"{name}={value}" for name, value in environment.items())
        unset = " ".join(f"-u {name}" for name in ("LC_ALL", "LC_CTYPE", "LANG", "NO_COLOR"))
        script = f"env {unset} {variables} {command}; echo EXIT $?; stty -a; exec sleep 1000"
        columns, rows = map(str, size)
        self._run("new-session", "-d", "-x", columns, "-y", rows, script)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)
        self._server.wait()

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._tmux, *arguments], check=True, capture_output=True, text=True).stdout

    def press(self, *keys: str) -> None:
        """Press keys. tmux defines the names of the keys."""
        self._run("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    @property
    def text(self) -> str:
        """The visible text of the terminal."""
        return self._run("capture-pane", "-p")

    @property
    def styled(self) -> str:
        """The visible text of the terminal, with the escape sequences of styles."""
        return self._run("capture-pane", "-p", "-e")

    def state(self, *names: str) -> list[str]:
        """Return states of the pane, for example mouse_any_flag."""
        return self._run("display-message", "-p", " ".join(f"#{{{name}}}" for name in names)).split()

    @property
    def pids(self) -> list[int]:
        """The processes of the pane: the shell and all descendants."""
        found = [int(self.state("pane_pid")[0])]
        for pid in found:
            found += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return found

    def shows(self, *words: str) -> str:
        """Wait until the terminal shows all words, and return the text of the terminal."""
        return self.becomes(lambda text: all(word in text for word in words), str(words))

    def becomes(self, is_right: Callable[[str], bool], what: str) -> str:
        """Wait until the text of the terminal meets a condition, and return the text."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not is_right(text := self.text):
            assert time.monotonic() < deadline_s, f"{what} not in\n{text}"
            time.sleep(0.1)
        return text
