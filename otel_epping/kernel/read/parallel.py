# SPDX-License-Identifier: Apache-2.0
"""Runs two functions at a time. This saves time if both spend it in the kernel or in numpy, which release the GIL."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """An iterator from which several threads take items; each item goes to one thread."""

    def __init__(self, items: Iterator[_T]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        with self._lock:
            return next(self._items)


@contextmanager
def run_parallel(function: Callable[[], _T]) -> Iterator["Future[_T]"]:
    """Runs the function in a thread while the body runs, and waits for it at the end of the body.

    Yields the function's Future; an exception of the function is raised by result().

    If no thread can be started, the function runs before the body. That happens while the interpreter exits, when the
    last export is made (from Python 3.12 on). A ThreadPoolExecutor accepts no work then.
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
