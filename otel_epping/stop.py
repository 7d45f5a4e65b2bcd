# SPDX-License-Identifier: Apache-2.0
"""How the agent ends. SIGINT and SIGTERM: the first is a wish to stop, and a second one, a second later, an order."""

import os
import signal
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from otel_epping import logs

# Less than this after the first signal, a second one is an echo: timeout(1), for one, signals its child twice.
_ECHO_S = 1.0


def end_at_once(last_words: str, status: int) -> NoReturn:
    """Ends the process, whatever its threads hang in: the interpreter waits for one that has standard output."""
    with suppress(OSError):  # a full disk
        os.write(2, f"{logs.last_words(last_words)}\n".encode())
    os._exit(status)


def interruptible() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt: for who has something to put in order (see __main__.py)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stop(threading.Event):
    """Set by the first signal. The second ends the process at once, with `last_words` on standard error."""

    def __init__(self, last_words: str) -> None:
        super().__init__()
        self._last_words = last_words
        self._first_s = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._signalled)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        if not self.is_set():
            self._first_s = time.monotonic()
            self.set()
        elif time.monotonic() - self._first_s > _ECHO_S:
            end_at_once(self._last_words, 128 + number)
