# SPDX-License-Identifier: Apache-2.0
"""Shows the progress of a command on standard error."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress_bar(label: str, length: int) -> Iterator[Callable[[int], object]]:
    """Yields a function that advances a progress bar by its argument. The bar is full at `length`.

    The bar is shown only if standard error is a terminal, and if `length` is not 0.
    """
    if not length or not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=length, label=label, file=sys.stderr, update_min_steps=length // 500) as bar:
        yield bar.update
