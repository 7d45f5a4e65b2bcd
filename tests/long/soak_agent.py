# SPDX-License-Identifier: Apache-2.0
"""Runs otel-epping with a SIGUSR1 handler. The handler appends a line of JSON with these fields to the file
$SOAK_HOLDS:

malloc_bytes   bytes allocated by malloc(): numpy's arrays, requests, C and C++ objects
blocks         blocks allocated by Python's own allocator for small objects
"""

import ctypes
import gc
import json
import os
import signal
import sys
from types import FrameType

from otel_epping.__main__ import main

_FIELDS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def _answer() -> None:
    """Install the SIGUSR1 handler in the main thread. A separate thread would not drop its capabilities."""
    answers = os.open(os.environ["SOAK_HOLDS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2

    def say(_: int, __: FrameType | None) -> None:
        # Garbage and Python's cache of attribute look-ups (up to 4096 names) are no leak. So remove the garbage
        # and the cache before the measurement.
        sys._clear_type_cache()
        gc.collect()
        malloc = mallinfo2()
        holds = {"malloc_bytes": malloc.uordblks + malloc.hblkhd, "blocks": sys.getallocatedblocks()}
        os.write(answers, json.dumps(holds).encode() + b"\n")

    signal.signal(signal.SIGUSR1, say)


if __name__ == "__main__":
    _answer()
    main()
