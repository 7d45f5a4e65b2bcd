# SPDX-License-Identifier: Apache-2.0
"""How the agent ends. SIGINT and SIGTERM: the first is a wish to stop, and a second one, a second later, an order."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from otel_epping.process import logs

# From a signal to the end, whatever receivers do: Docker kills 10 s after it, systemd after 90 s, Kubernetes 30 s.
STOP_S = 8.0
# Less than this after the first signal, a second one is an echo: timeout(1), for one, signals its child twice.
_ECHO_S = 1.0


def end_at_once(last_words: str, status: int) -> NoReturn:
    """Ends the process, whatever its threads hang in: the interpreter waits for one that has standard output.

    Writes `last_words` to standard error, if there are any.
    """
    if last_words:
        with suppress(OSError):  # a full disk
            os.write(2, f"{logs.last_words(last_words)}\n".encode())
    os._exit(status)


def interruptible() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt: for who has something to put in order (see __main__.py)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stop(threading.Event):
    """Set by the first signal. The second ends the process at once, with `last_words` on standard error.

    The deadline is `limit_s` after the first signal, if given. It ends the process, too: `overdue` holds what to write
    then, and the exit code.
    """

    def __init__(self, last_words: str, limit_s: float | None = None) -> None:
        super().__init__()
        self.overdue = last_words, 1
        self._last_words = last_words
        self._limit_s = limit_s
        self._first_s = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGALRM, lambda *_: end_at_once(*self.overdue))

    def left_s(self) -> float:
        """Seconds until the deadline, at least 0. Only with a deadline, and after the first signal."""
        assert self._limit_s is not None
        return max(0.0, self._first_s + self._limit_s - time.monotonic())

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if not self.is_set():
            self._first_s = time.monotonic()
            self.set()
            if self._limit_s is not None:
                with suppress(OSError):  # a seccomp filter: then only the export has a deadline
                    signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        elif time.monotonic() - self._first_s > _ECHO_S:
            end_at_once(self._last_words, 128 + number)
