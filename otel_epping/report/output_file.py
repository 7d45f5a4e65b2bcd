# SPDX-License-Identifier: Apache-2.0
"""Writes the output file. A reader never sees a half-written file."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from otel_epping.errors import EppingError

_CURES = {
    "No such file or directory": "create the directory first",
    "Is a directory": "name a file, for example latency.html",
    "No space left on device": "free space, or choose another file system",
    "Permission denied": "choose a directory that you may write to",
}


class OutputFile:
    """A file that write() creates or replaces. A context manager: without write(), the old file stays as it is.

    The constructor creates a temporary file in the same directory. So a fault of the path is found before the
    measurement. Raises EppingError if the file cannot be created or written.

    A path that is not a regular file, such as a device or a pipe, is written to. A link is followed.

    `in_place` is needed if the process drops capabilities before write(), and so may no longer rename files in the
    directory of another user. Then write() writes to the file itself, which the constructor opens.
    """

    def __init__(self, path: Path, *, in_place: bool = False) -> None:
        self._path = path = path.resolve()
        self._is_new = not path.exists()
        self._temporary: Path | None = None
        self._is_written = False
        try:
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory")
            if in_place or (path.exists() and not path.is_file()):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
                return
            self._file, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            self._temporary = Path(name)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(self._file, 0o666 & ~mask)
        except OSError as error:
            raise _fault(path, error) from None

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(OSError):
            os.close(self._file)
        unfinished = self._temporary or (self._path if self._is_new else None)
        if not self._is_written and unfinished:
            with suppress(OSError):
                unfinished.unlink()

    def write(self, content: str) -> None:
        """Writes the content, and replaces the file."""
        try:
            with open(self._file, "wb", closefd=False) as file:
                file.write(content.encode())
            if self._temporary:
                os.fsync(self._file)
                self._temporary.replace(self._path)
            elif self._path.is_file():
                os.ftruncate(self._file, len(content.encode()))
        except OSError as error:
            raise _fault(self._path, error) from None
        self._is_written = True


def _fault(path: Path, error: OSError) -> EppingError:
    cause = error.strerror or str(error)
    cure = _CURES.get(cause)
    return EppingError(f"cannot write {path}: {cause}" + (f": {cure}" if cure else ""))
