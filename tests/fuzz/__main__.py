# SPDX-License-Identifier: Apache-2.0
"""`python -m fuzz`."""

from fuzz.command import main

if __name__ == "__main__":
    main()
