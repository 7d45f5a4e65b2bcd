# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.long.fuzz`."""

from tests.long.fuzz.command import main

if __name__ == "__main__":
    main()
