# SPDX-License-Identifier: Apache-2.0
"""The entry point of `otel-epping` and `python -m otel_epping`.

Sets up the standard streams and Ctrl-C before the slow imports.
"""

import io
import os
import signal
import sys
from contextlib import suppress
from typing import Any


def main() -> None:
    """Runs the command line.

    Until a command needs cleanup (process/signals.py), Ctrl-C ends the process at once. The default handler of Python
    would raise KeyboardInterrupt during an import and print a traceback. If SIGINT is ignored at the start, it stays
    ignored. For example, some shells start background jobs with SIGINT ignored.
    """
    _open_streams()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from otel_epping.cli import main

    main()


class _StandardError(io.FileIO):
    """A standard error stream that ignores failed writes, so that a full disk does not make a command fail."""

    def write(self, data: Any) -> int:
        """Writes the data. If the write fails, the data are lost."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _open_streams() -> None:
    """Makes the standard streams usable, even if the parent process closed them.

    A closed stream is opened on /dev/null. If the stream stayed closed, the next opened file would get the descriptor
    of the stream, and a library that writes to standard error would write to that file. Characters that the encoding of
    a stream cannot represent are escaped.
    """
    for fd, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `fd`
            setattr(sys, name, os.fdopen(fd, mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        with suppress(OSError):  # reconfigure() flushes the buffer, and the flush fails on a full disk
            sys.stdout.reconfigure(errors="backslashreplace")
    raw = io.BufferedWriter(_StandardError(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(raw, sys.stderr.encoding, errors="backslashreplace", line_buffering=True)


if __name__ == "__main__":
    main()
