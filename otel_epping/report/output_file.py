# SPDX-License-Identifier: Apache-2.0
"""Writes the output file. Except with `in_place`, a regular file is replaced at once, and is never incomplete."""

import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from otel_epping.errors import EppingError
from otel_epping.process.escaping import escaped_path

_CURES = {
    "No such file or directory": "create the directory first",
    "Is a directory": "name a file, for example latency.html",
    "No space left on device": "free space, or choose another file system",
    "Permission denied": "choose a directory that you may write to",
}


class OutputFile:
    """A file that write() creates or replaces. Before write(), an old file is not changed.

    The constructor tries to create a file in the same directory. So errors of the path are found before the
    measurement. Raises EppingError if the file cannot be created or written. Devices and pipes are written, and not
    replaced. Symbolic links are followed.

    If `in_place` is set, the constructor opens the file, and write() overwrites its content. `in_place` is needed if
    the process drops its capabilities before write(), because then the process may no longer create files in the
    directory of another user. OutputFile is a context manager, which closes the file.
    """

    def __init__(self, path: Path, *, in_place: bool = False) -> None:
        self._path = path = path.resolve()
        self._file: int | None = None
        self._is_unwritten = in_place and not path.exists()
        try:
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if in_place or (path.exists() and not path.is_file()):
                self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
            else:
                self._temporary().unlink()
        except OSError as error:
            raise _fault(path, error) from None

    def __enter__(self) -> "OutputFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            with suppress(OSError):
                os.close(self._file)
        if self._is_unwritten:
            with suppress(OSError):
                self._path.unlink()

    def write(self, content: str) -> None:
        """Writes the content, and replaces the file."""
        octets = content.encode()
        try:
            if self._file is not None:
                with open(self._file, "wb", closefd=False) as file:
                    file.write(octets)
                if self._path.is_file():
                    os.ftruncate(self._file, len(octets))
            else:
                self._replace(octets)
        except OSError as error:
            raise _fault(self._path, error) from None
        self._is_unwritten = False

    def _replace(self, octets: bytes) -> None:
        temporary = self._temporary()
        try:
            with temporary.open("wb") as file:
                file.write(octets)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except BaseException:  # also Ctrl-C
            temporary.unlink()
            raise

    def _temporary(self) -> Path:
        """Creates a temporary file in the same directory, with the permissions that the umask allows."""
        file, name = tempfile.mkstemp(prefix=f".{self._path.name}.", dir=self._path.parent)
        mask = os.umask(0)
        os.umask(mask)
        os.fchmod(file, 0o666 & ~mask)
        os.close(file)
        return Path(name)


def _fault(path: Path, error: OSError) -> EppingError:
    cause = error.strerror or str(error)
    cure = _CURES.get(cause)
    return EppingError(f"cannot write {escaped_path(str(path))}: {cause}" + (f": {cure}" if cure else ""))
