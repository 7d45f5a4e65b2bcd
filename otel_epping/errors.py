# SPDX-License-Identifier: Apache-2.0
"""The exception whose message is shown to users."""


class EppingError(Exception):
    """An error that the user can fix. The message is one line: the cause, then the cure.

    `detail` is the output of the compiler, the verifier or another program, or an empty string.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
