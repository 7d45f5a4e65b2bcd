# SPDX-License-Identifier: Apache-2.0
"""Two things at a time, where both are the kernel's work or numpy's, for which Python's other threads need not wait."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Shared(Generic[_T]):
    """What several threads take from, one at a time, until there is no more."""

    def __init__(self, items: Iterator[_T]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        with self._lock:
            return next(self._items)


@contextmanager
def run_parallel(function: Callable[[], _T]) -> Iterator["Future[_T]"]:
    """Calls the function while the body runs, and doesn't leave before both are done; what became of it, to be asked.

    One after the other if there are no more threads: the last export comes when the interpreter is ending. For that,
    too, it isn't a ThreadPoolExecutor, which then takes no more work.
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
