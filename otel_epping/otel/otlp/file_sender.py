# SPDX-License-Identifier: Apache-2.0
"""Appends requests to a file: one line of OTLP/JSON for each request.

The Collector's receiver otlpjsonfile reads such files. The official exporter opentelemetry-exporter-otlp-json-file is
not used, for three reasons. The only release, 0.66b1, needs opentelemetry-exporter-otlp-common 0.66b1, and the OTLP
exporters of SDK 1.45.2 need 0.66b2, so pip cannot install both. If the disk is full, the exporter leaves a part of a
line in the file. The exporter also continues to write to a file that logrotate has renamed.
"""

import fcntl
import json
import os
import stat
from threading import Event
from typing import NoReturn

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from otel_epping.errors import EppingError
from otel_epping.otel.otlp.answer import Answer
from otel_epping.otel.otlp.failure import Failure
from otel_epping.otel.otlp.request import Request
from otel_epping.otel.otlp.retries import RequestSender
from otel_epping.otel.variables.certificates import Certificates

# A write to a file has no timeout. The value is only the maximum duration that health checks assume.
_MAX_WRITE_S = 30.0
# Every recording begins with this text, or with a part of this text if the process was killed.
_BEGIN = b'{"resourceMetrics":'


class FileSender(RequestSender):
    """Appends requests to the file `path`. If a request cannot be written completely, no byte of the request is kept.

    If the file was renamed or deleted since the previous request, for example by logrotate, a new file is created.
    Raises EppingError if the file cannot be opened, or if another process writes to the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__(_MAX_WRITE_S, Event())
        self._path = path
        try:
            self._fd = _open(path)
        except OSError as error:
            raise EppingError(f"cannot record to {path}: {error.strerror}") from None

    def _renew(self, certificates: Certificates) -> NoReturn:
        raise NotImplementedError

    def _try(self, request: Request, timeout_s: float) -> Answer:
        # A line of an OTLP file is a MetricsData message. ExportMetricsServiceRequest has the same fields.
        message = ExportMetricsServiceRequest.FromString(request.body)
        content = MessageToDict(message, use_integers_for_enums=True)
        line = json.dumps(content, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        try:
            self._reopen()
            _append(self._fd, line)
        except OSError as error:
            return Answer(Failure(f"cannot record to {self._path}: {error.strerror}"))
        return Answer()

    def _reopen(self) -> None:
        """Opens the file again if the path no longer names the open file."""
        ours = os.fstat(self._fd)
        try:
            found = os.stat(self._path)  # noqa: PTH116
        except FileNotFoundError:
            pass
        else:
            if (found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino):
                return
        new = _open(self._path)
        os.close(self._fd)
        self._fd = new


def _open(path: str) -> int:
    """Opens a file for appending. Ends an incomplete last line, which remains if a process was killed."""
    # Without O_NONBLOCK, opening a FIFO would wait for a reader.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(None, "it is not a regular file")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(None, "another process writes to it") from None
        size = os.fstat(fd).st_size
        begin, _, _ = os.pread(fd, len(_BEGIN), 0).partition(b"\n")
        if not _BEGIN.startswith(begin):
            raise OSError(None, "it is not a recording; give the name of a new file")
        if size and os.pread(fd, 1, size - 1) != b"\n":
            _append(fd, b"\n")
    except BaseException:
        os.close(fd)
        raise
    return fd


def _append(fd: int, data: bytes) -> None:
    """Appends all bytes. If a write fails, removes the written bytes and raises OSError."""
    size = os.fstat(fd).st_size
    rest = memoryview(data)
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        os.ftruncate(fd, size)
        raise
