# SPDX-License-Identifier: Apache-2.0
"""`python3 -m tests.distro`."""

import sys

from tests.distro.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
