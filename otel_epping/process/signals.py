# SPDX-License-Identifier: Apache-2.0
"""Handles signals: SIGINT and SIGTERM stop the process, and SIGHUP requests a reload of the settings.

The first SIGINT or SIGTERM requests a clean stop. The process ends at once if a second signal arrives more than one
second after the first signal.
"""

import atexit
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import NoReturn

from otel_epping.process import logs

# Maximum time from the first SIGINT or SIGTERM to the end of the agent, even if a receiver hangs. Docker kills a
# process 10 s after the signal, Kubernetes after 30 s, and systemd after 90 s.
STOP_S = 8.0
# A second signal within 1 s after the first is ignored as a duplicate. For example, timeout(1) sends its signal to its
# child twice.
_DUPLICATE_S = 1.0


def exit_now(message: str, status: int) -> NoReturn:
    """Ends the process at once, even if a thread hangs. Writes `message` to standard error, unless `message` is empty.

    A normal exit would wait for all non-daemon threads, and for a thread that holds the lock of standard output.
    """
    if message:
        with suppress(OSError):  # a full disk
            os.write(2, f"{logs.exit_message(message)}\n".encode())
    os._exit(status)


def enable_keyboard_interrupt() -> None:
    """Makes Ctrl-C raise KeyboardInterrupt from now on.

    Each command that needs cleanup calls this function (see __main__.py).
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stop(threading.Event):
    """An event that is set by the first SIGINT or SIGTERM.

    If a second signal arrives more than _DUPLICATE_S after the first, the process writes `message` to standard error
    and ends at once. `limit_s` is the time from the first signal to the deadline. If `limit_s` is None, there is no
    deadline. At the deadline the process ends with the message and the exit code in `at_deadline`.
    """

    def __init__(self, message: str, limit_s: float | None = None) -> None:
        super().__init__()
        self.at_deadline = message, 1
        self._message = message
        self._limit_s = limit_s
        self._first_s = 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)
        signal.signal(signal.SIGALRM, lambda *_: exit_now(*self.at_deadline))
        atexit.register(self._disarm)

    def remaining_s(self) -> float:
        """Returns the seconds until the deadline, at least 0.

        Call this method only after the first signal, and only if `limit_s` is not None.
        """
        assert self._limit_s is not None
        return max(0.0, self._first_s + self._limit_s - time.monotonic())

    def _disarm(self) -> None:
        """Cancels the deadline immediately before the interpreter ends.

        The interpreter resets the signal handlers before the process ends. After the reset of the handlers, a SIGALRM
        would kill the process, and change its exit code.
        """
        with suppress(OSError):  # a seccomp filter refuses setitimer(), so no timer is set
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self.is_set():
            self._first_s = time.monotonic()
            self.set()
            if self._limit_s is not None:
                with suppress(OSError):  # if a seccomp filter refuses setitimer(), only the last export has a deadline
                    signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        elif time.monotonic() - self._first_s > _DUPLICATE_S:
            exit_now(self._message, 128 + number)


class SignalPipe:
    """Wakes the main thread from poll() when a signal arrives, and remembers SIGHUP.

    Create the object in the main thread before a SIGHUP can arrive, because SIGHUP ends the process by default.
    """

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        for end in (self._receiver, self._sender):
            end.setblocking(False)
        signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._hangup = False
        signal.signal(signal.SIGHUP, self._handle_hangup)

    def _handle_hangup(self, _: int, __: FrameType | None) -> None:
        self._hangup = True

    def fileno(self) -> int:
        """Returns a descriptor that becomes readable when a signal with a Python handler arrives."""
        return self._receiver.fileno()

    def take_hangup(self) -> bool:
        """Returns True if at least one SIGHUP arrived since the previous call. Empties the pipe."""
        with suppress(BlockingIOError):
            while self._receiver.recv(64):
                pass
        hangup, self._hangup = self._hangup, False
        return hangup
