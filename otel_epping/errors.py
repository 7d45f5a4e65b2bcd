# SPDX-License-Identifier: Apache-2.0
"""The one error that a user is meant to read."""


class EppingError(Exception):
    """Something the user can mend. The message is one line: the cause, then the cure.

    `detail` holds what a compiler, the verifier or another program said, if there is more to say.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail
