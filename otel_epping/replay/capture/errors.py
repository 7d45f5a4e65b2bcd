# SPDX-License-Identifier: Apache-2.0
"""The one error of this package."""


class CaptureError(Exception):
    """A capture that cannot be read, or not to its end. The message is one line: the file, the cause, and where."""
