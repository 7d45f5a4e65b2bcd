# SPDX-License-Identifier: Apache-2.0
"""Signals: SIGINT and SIGTERM stop the process within a deadline; SIGHUP asks for new settings.

The first SIGINT or SIGTERM requests a clean stop. A second one, more than a second later, ends the process at once.
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

# Time from the signal to the end of the agent, also if a receiver hangs. Docker kills a process after 10 s, Kubernetes
# after 30 s, systemd after 90 s.
STOP_S = 8.0
# A second signal within this time is a duplicate of the first one: timeout(1), for example, signals its child twice.
_DUPLICATE_S = 1.0


def exit_now(message: str, status: int) -> NoReturn:
    """Ends the process at once, even if a thread hangs. Writes `message` to standard error, unless it is empty.

    A normal exit would wait for threads that are not daemons, and for a thread that holds the lock of standard output.
    """
    if message:
        with suppress(OSError):  # a full disk
            os.write(2, f"{logs.exit_message(message)}\n".encode())
    os._exit(status)


def enable_keyboard_interrupt() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt: for commands that need cleanup (see __main__.py)."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM. A second one ends the process at once, with `message` on standard error.

    `limit_s` is the time from the first signal to the deadline; None: no deadline. At the deadline the process ends
    with the message and exit code in `at_deadline`.
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
        """Seconds until the deadline, at least 0. Requires a deadline; call it after the first signal."""
        assert self._limit_s is not None
        return max(0.0, self._first_s + self._limit_s - time.monotonic())

    def _disarm(self) -> None:
        """Ends the deadline when only the end of the interpreter is left.

        The interpreter resets signal handlers before the process ends. A SIGALRM after that would kill the process, and
        replace its exit code.
        """
        with suppress(OSError):  # refused by a seccomp filter, like setting the timer
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if not self.is_set():
            self._first_s = time.monotonic()
            self.set()
            if self._limit_s is not None:
                with suppress(OSError):  # refused by a seccomp filter: then only the last export has a deadline
                    signal.setitimer(signal.ITIMER_REAL, self._limit_s)
        elif time.monotonic() - self._first_s > _DUPLICATE_S:
            exit_now(self._message, 128 + number)


class SignalPipe:
    """Wakes a main thread that waits in poll() when a signal arrives, and remembers SIGHUP.

    Create it in the main thread, before SIGHUP can arrive: the default action of SIGHUP ends the process.
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
        """A descriptor that is readable after any signal that Python handles."""
        return self._receiver.fileno()

    def take_hangup(self) -> bool:
        """Whether SIGHUP arrived since the previous call, once or more often. Empties the pipe."""
        with suppress(BlockingIOError):
            while self._receiver.recv(64):
                pass
        hangup, self._hangup = self._hangup, False
        return hangup
