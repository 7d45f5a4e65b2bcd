# SPDX-License-Identifier: Apache-2.0
"""Opens the input files of one replay, reads their packets, and collects the failures."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from otel_epping.process.escaping import escaped_path
from otel_epping.replay.capture import STANDARD_INPUT, Capture, CaptureError, PacketBatch
from otel_epping.replay.capture.packet_batch import UNTIMED_NS


class InputFiles:
    """Reads captures in the order of `paths`. If several paths name the same file, the file is read only once.

    If a file cannot be read, the class continues with the next file. The constructor opens the first readable file.

    failures     a message for each file that could not be read completely
    files_read   number of files that were read completely, or from which at least one packet was read
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self.failures: list[str] = []
        self.files_read = 0
        self._paths = paths
        self._seen: set[tuple[int, int]] = set()
        self._repeated: list[str] = []
        self._out_of_order: list[str] = []
        self._latest_ns = UNTIMED_NS
        self._captures = self._open_all()
        self._first = next(self._captures, None)

    @property
    def none_readable(self) -> bool:
        """True if no file could be opened."""
        return self._first is None

    def total_bytes(self) -> int:
        """Returns the sum of the sizes of all files in bytes.

        The size of a pipe, or of a file that cannot be read, counts as 0.
        """
        return sum(_size(path) for path in self._paths)

    def batches(self, progress: Callable[[int], object]) -> Iterator[PacketBatch]:
        """Yields the packets of all files, with Ethernet headers. May be called only once.

        After each batch, calls `progress` with the number of bytes that were read from the file for the batch.
        """
        capture = self._first
        while capture:
            yield from self._read(capture, progress)
            capture = next(self._captures, None)

    def remarks(self) -> Iterator[str]:
        """Yields the lines of the report that name files in the wrong order and repeated files."""
        if self._out_of_order:
            count, first = len(self._out_of_order), self._out_of_order[0]
            yield (
                f"{count:,} file{'s start' if count > 1 else ' starts'} before an earlier file ends, the first such "
                f"file is {first}: name the files in the order of time, or merge them with mergecap"
            )
        for path in dict.fromkeys(self._repeated):
            yield f"{path} is the same file as an earlier file, and was read once"

    def _open_all(self) -> Iterator[Capture]:
        for path in self._paths:
            if self._is_repeated(path):
                continue
            try:
                capture = Capture(path)
            except CaptureError as error:
                self.failures.append(str(error))
                continue
            yield capture

    def _is_repeated(self, path: str) -> bool:
        """Returns True if an earlier path names a file with the same device number and inode number."""
        try:
            status = os.fstat(0) if path == STANDARD_INPUT else Path(path).stat()
        except OSError:
            return False  # Capture() will fail for the same reason, and report the error
        file = status.st_dev, status.st_ino
        if file in self._seen:
            self._repeated.append("standard input" if path == STANDARD_INPUT else escaped_path(path))
            return True
        self._seen.add(file)
        return False

    def _read(self, capture: Capture, progress: Callable[[int], object]) -> Iterator[PacketBatch]:
        """Yields the packets of a capture up to the end of the file, or up to the first byte that cannot be read."""
        latest_ns_before = self._latest_ns
        position, is_counted, has_times = 0, False, False
        try:
            with capture:
                for batch in capture.ethernet_batches():
                    self.files_read += not is_counted
                    is_counted = True
                    times_ns = batch.times_ns[batch.times_ns != UNTIMED_NS]
                    if len(times_ns):
                        if not has_times and times_ns[0] < latest_ns_before:
                            self._out_of_order.append(capture.name)
                        has_times = True
                        self._latest_ns = max(self._latest_ns, int(times_ns.max()))
                    yield batch
                    progress(capture.position - position)
                    position = capture.position
        except CaptureError as error:
            self.failures.append(str(error))
        else:
            self.files_read += not is_counted


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0
