# SPDX-License-Identifier: Apache-2.0
"""The terminal of the screen, which may disappear at any time, for example when an ssh connection ends."""

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, TextIO

# The signals that end the screen.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _LastingStream:
    """A stream that ignores errors of write() and flush(). Everything else is done by the given stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, content: str) -> int:
        """Writes text, or drops the text if the terminal has disappeared. Returns the number of characters."""
        with suppress(OSError):
            self._stream.write(content)
        return len(content)

    def flush(self) -> None:
        """Writes buffered text, or drops the text if the terminal has disappeared."""
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def prepared_terminal() -> Iterator[None]:
    """Prepares the process for textual. Signals are blocked until the screen calls handle_signals().

    Without this preparation, the process would not end in two cases:

    - The terminal disappears while more than 30 texts wait to be written. Textual's thread that writes the texts would
      end with an exception, and textual would wait for this thread forever.
    - A signal handler raises an exception while textual starts, in the middle of an operation of a queue.
    """
    stream = sys.__stderr__
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    signal.pthread_sigmask(signal.SIG_BLOCK, {*SIGNALS, signal.SIGCONT})
    try:
        if stream is not None:
            sys.__stderr__ = _LastingStream(stream)  # type: ignore[assignment, misc]
        yield
    finally:
        sys.__stderr__ = stream  # type: ignore[misc]
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS, signal.SIGCONT})


def handle_signals(end: Callable[[], object]) -> None:
    """Calls `end` at each of SIGNALS. Call this function in the event loop of the screen, after textual has started.

    asyncio's own signal handlers are not used, because they lose a signal if several hundred other signals wait, for
    example SIGWINCH while the terminal accepts no output.

    At SIGCONT, textual starts its threads again, even if the process was not suspended. If a terminal disappears, the
    kernel sends SIGCONT after SIGHUP. Then textual would wait forever for its first threads. So textual's handler is
    only called after a suspension.
    """
    loop = asyncio.get_running_loop()
    for number in SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(end))
    suspend, resume = signal.getsignal(signal.SIGTSTP), signal.getsignal(signal.SIGCONT)
    is_suspended = False

    def on_suspend(number: int, frame: FrameType | None) -> None:
        nonlocal is_suspended
        is_suspended = True
        if callable(suspend):
            suspend(number, frame)

    def on_resume(number: int, frame: FrameType | None) -> None:
        nonlocal is_suspended
        if is_suspended and callable(resume):
            is_suspended = False
            resume(number, frame)

    signal.signal(signal.SIGTSTP, on_suspend)
    signal.signal(signal.SIGCONT, on_resume)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {*SIGNALS, signal.SIGCONT})
