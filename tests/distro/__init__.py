# SPDX-License-Identifier: Apache-2.0
"""Runs the project in fresh installations of Debian 12, 13 and sid, on this kernel: `make distrotest`.

    trees.py         minimal installations made by debootstrap, kept in the cache folder
    installation.py  a fresh installation: an overlay of a tree, with a copy of this checkout
    enter.sh         the script that installation.py runs in the namespaces: mounts the tree, then runs the command
    command.py       the command line

Only the standard library is used, so the host's Python runs this package without a venv.
"""
