# SPDX-License-Identifier: Apache-2.0
"""The error that is meant for users."""


class EppingError(Exception):
    """An error that the user can fix. The message is one line: the cause, then the cure.

    `detail` has the output of a compiler, the verifier or another program, or is empty.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
