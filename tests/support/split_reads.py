# SPDX-License-Identifier: Apache-2.0
"""Writes the bytes of a capture to a pipe, so that each read from the pipe gets a fixed number of bytes."""

import array
import fcntl
import os
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


def _unread(pipe: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def _write(pipe: int, content: bytes, size: int, given_up: threading.Event) -> None:
    for begin in range(0, len(content), size):
        os.write(pipe, content[begin : begin + size])
        while _unread(pipe) and not given_up.is_set():
            time.sleep(1e-5)
        if given_up.is_set():
            break
    os.close(pipe)


@contextmanager
def delivered(content: bytes, size: int) -> Iterator[str]:
    """Return a path from which `content` can be read once. Each read gets at most `size` bytes, and at most 64 KiB."""
    read_end, write_end = os.pipe()
    given_up = threading.Event()
    writer = threading.Thread(target=_write, args=(write_end, content, size, given_up))
    writer.start()
    try:
        yield f"/dev/fd/{read_end}"
    finally:
        given_up.set()
        writer.join()
        os.close(read_end)
