# SPDX-License-Identifier: Apache-2.0
"""SIGHUP, and what wakes a main thread that waits in select() when a signal came, be it this one or another."""

import signal
import socket
from contextlib import suppress
from types import FrameType


class Signals:
    """To be selected on: readable when a signal came. Made by the main thread, and as early as SIGHUP may come."""

    def __init__(self) -> None:
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._hung_up = False
        signal.signal(signal.SIGHUP, self._hang_up)

    def _hang_up(self, _: int, __: FrameType | None) -> None:
        self._hung_up = True

    def fileno(self) -> int:
        """A descriptor that can be read when a signal came."""
        return self._woken.fileno()

    def take_hangup(self) -> bool:
        """Whether SIGHUP came since this was last asked, once for any number of them."""
        with suppress(BlockingIOError):
            while self._woken.recv(64):
                pass
        hung_up, self._hung_up = self._hung_up, False
        return hung_up
