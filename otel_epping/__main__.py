# SPDX-License-Identifier: Apache-2.0
"""`otel-epping`, and `python -m otel_epping`: what comes before the first import that takes its time."""

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any


def main() -> None:
    """Runs the command line.

    Until a command needs cleanup (process/stop.py), Ctrl-C ends the process at once: Python's own handler would raise
    KeyboardInterrupt in the midst of imports and print a traceback. A background job of a shell ignores SIGINT, and
    this function leaves that as it is.
    """
    _open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from otel_epping.cli import main

    main()


class _StandardError(io.FileIO):
    """Standard error: what cannot be written, on a full disk for one, is lost. It is no failure of the command."""

    def write(self, data: Any) -> int:
        """Writes the data, or drops them."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _open_streams() -> None:
    """Prepares the standard streams, whatever they are at the start.

    One that is closed is opened on /dev/null. Otherwise the next file that we open would get its descriptor, and what
    a library writes to standard error would go there. Characters that a stream's encoding lacks are escaped.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError):  # it writes what is in the buffer first, which a full disk refuses
            sys.stdout.reconfigure(errors="backslashreplace")
    raw = io.BufferedWriter(_StandardError(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, errors="backslashreplace", line_buffering=True)


if __name__ == "__main__":
    main()
