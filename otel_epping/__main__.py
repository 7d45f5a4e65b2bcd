# SPDX-License-Identifier: Apache-2.0
"""`otel-epping`, and `python -m otel_epping`: what comes before the first import that takes its time."""

import os
import signal
import sys


def main() -> None:
    """Runs the command line.

    Until a command has something to put in order (stop.py), Ctrl-C just ends the process: Python's own handler would
    raise in the midst of imports, and show where. A shell's background job ignores it, and goes on doing so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from otel_epping.cli import main

    try:
        main()
    finally:
        _give_up_log()


def _give_up_log() -> None:
    """What cannot be written of it, on a full disk, is no failure: Python would make one of it, status 120."""
    try:
        sys.stderr.flush()
    except OSError:
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")


if __name__ == "__main__":
    main()
