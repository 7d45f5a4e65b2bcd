# SPDX-License-Identifier: Apache-2.0
"""The exception that the capture package raises for files that it cannot read."""


class CaptureError(Exception):
    """A capture cannot be read, or only a part of the capture can be read.

    The message is one line that contains the file, the cause, and the position in the file.
    """
