# SPDX-License-Identifier: Apache-2.0
"""Runs two functions in parallel.

Parallel threads save time if both functions spend most of their time in numpy or in system calls, because numpy and
system calls release the GIL.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """An iterator from which several threads take items. Each item goes to exactly one thread."""

    def __init__(self, items: Iterator[_T]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        with self._lock:
            return next(self._items)


@contextmanager
def run_parallel(function: Callable[[], _T]) -> Iterator["Future[_T]"]:
    """Runs the function in a thread while the `with` block runs. At the end of the block, waits for the function.

    Yields the function's Future. If the function raises an exception, the Future's result() raises the same exception.

    If no thread can be started, the function runs before the block. From Python 3.12 on, no thread can be started while
    the interpreter exits. The last export runs while the interpreter exits. A ThreadPoolExecutor is not used, because
    it accepts no work while the interpreter exits.
    """
    outcome: Future[_T] = Future()

    def call() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:
            outcome.set_exception(error)

    try:
        threading.Thread(target=call).start()
    except RuntimeError:
        call()
    try:
        yield outcome
    finally:
        outcome.exception()
