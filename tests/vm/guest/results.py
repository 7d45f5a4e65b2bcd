# SPDX-License-Identifier: Apache-2.0
"""The results of a machine, as JSON lines in the folder that the machine shares with the host."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SHARE = Path("/share")


class NotTriedError(Exception):
    """Something could not be tested on this machine. The message gives the reason."""


class Results:
    """The results of one test."""

    def __init__(self, test: str) -> None:
        self._test = test
        self._since = time.monotonic()

    def tell(self, name: str, ok: bool | None, text: str, **data: Any) -> None:
        """Write a result. `ok` is true if the check passed, false if it failed ("red"), and None if it was not
        tried."""
        now = time.monotonic()
        line = {"test": self._test, "name": name, "ok": ok, "text": text, "seconds": round(now - self._since, 1)}
        self._since = now
        with Path(SHARE, "results.jsonl").open("a") as file:
            file.write(json.dumps(line | data) + "\n")

    @contextmanager
    def attempt(self, name: str, **data: Any) -> Iterator[None]:
        """Write a result if the `with` block raises an exception: "not tried" for NotTriedError, "red" for any other
        exception."""
        try:
            yield
        except NotTriedError as error:
            self.tell(name, None, str(error), **data)
        except Exception as error:
            traceback.print_exc()  # written to the log of the console
            self.tell(name, False, f"{type(error).__name__}: {error}", **data)
