# SPDX-License-Identifier: Apache-2.0
"""Runs `otel-epping top` in a pseudo-terminal, presses keys, and measures the time until the screen is painted."""

import fcntl
import os
import pty
import select
import struct
import termios
import threading
import time
from pathlib import Path
from typing import NamedTuple

from bench.veth_pair import VethPair
from bench.watching_process import WatchingProcess

_ROWS, _COLUMNS = 50, 200
# A screen is painted when the process has written no output for this time, in seconds.
_PAUSE_S = 0.04
_READ_BYTES = 1 << 16


class Painting(NamedTuple):
    """A burst of output without a pause: the times of the first and the last bytes, and the number of bytes."""

    begin_s: float
    end_s: float
    bytes: int


class TopTerminal(WatchingProcess):
    """`otel-epping top` in a terminal with 200 columns and 50 rows.

    A thread reads the output, so that a write of `top` never waits.
    """

    def __init__(self, veth: VethPair, *options: str) -> None:
        self._keyboard, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
        try:
            streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
            environment = {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
            super().__init__(veth, "top", *options, environment=environment, **streams)
        finally:
            os.close(terminal)
        self._bursts: list[Painting] = []
        self._output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __exit__(self, *_: object) -> None:
        super().__exit__(*_)
        self._reader.join()
        os.close(self._keyboard)

    @property
    def log(self) -> str:
        """The latest output."""
        return self._output.decode(errors="replace")

    def is_painted(self) -> bool:
        """Returns true if there was output."""
        return bool(self._bursts)

    @property
    def bursts(self) -> list[Painting]:
        """The bursts of output since the start. The last burst may continue."""
        return list(self._bursts)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._keyboard, _READ_BYTES)
            except OSError:  # the process has ended
                return
            now_s = time.monotonic()
            self._output = self._output[-_READ_BYTES:] + data
            if self._bursts and now_s - self._bursts[-1].end_s < _PAUSE_S:
                last = self._bursts[-1]
                self._bursts[-1] = Painting(last.begin_s, now_s, last.bytes + len(data))
            else:
                self._bursts.append(Painting(now_s, now_s, len(data)))

    def wait_for_quiet(self) -> None:
        """Waits until the process has written no output for 2 * _PAUSE_S seconds."""
        while self._bursts and time.monotonic() - self._bursts[-1].end_s < 2 * _PAUSE_S:
            time.sleep(_PAUSE_S / 4)

    def press(self, key: bytes, timeout_s: float = 5.0) -> float:
        """Presses a key. Returns the time in seconds until the screen is painted, or the timeout."""
        self.wait_for_quiet()
        seen, began_s = len(self._bursts), time.monotonic()
        os.write(self._keyboard, key)
        while len(self._bursts) == seen:
            if time.monotonic() - began_s > timeout_s:
                return timeout_s
            select.select([], [], [], 0.002)
        self.wait_for_quiet()
        return self._bursts[seen].end_s - began_s

    def main_thread_cpu_s(self) -> float:
        """Returns the CPU time that the main thread has used so far, in seconds."""
        pid = self.process.pid
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0]) / 1e9
