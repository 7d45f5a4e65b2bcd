# SPDX-License-Identifier: Apache-2.0
"""Confines the loader by Landlock (landlock(7)), which Linux has from 5.13 on, where it is enabled.

A compiler is a large thing to give capabilities to. It needs to read some folders, to run no file and to write none.
And BCC would read all symbols of the kernel, which takes a tenth of a second and more, for a helper that we don't call.

The loader runs this file by its path, so the file imports nothing of ours.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The numbers of the system calls, the same on all machines; linux/landlock.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
# Version -> the rights that it brought: to run, write, read, remove and make files; to link and rename; to cut short.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14}
_READ = 1 << 2 | 1 << 3  # files and folders

_syscall = ctypes.CDLL(None).syscall


def _ruleset(folders: Sequence[Path]) -> int:
    """The descriptor of rules that allow to read what is in these folders; -1 if Landlock refuses."""
    version = _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    handled = ctypes.c_uint64(sum(rights for since, rights in _RIGHTS.items() if since <= version))
    ruleset: int = _syscall(_CREATE_RULESET, ctypes.byref(handled), 8, 0)
    for folder in folders:
        fd = os.open(folder, os.O_PATH)
        beneath = _READ.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        failed = _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, beneath, 0)
        os.close(fd)
        if failed:
            return -1
    return ruleset


def _first_closed(restrict: Callable[[], int], folders: Sequence[Path]) -> Path | None:
    """The first of the folders that cannot be read once the calling thread is restricted; None if all can."""
    if restrict():
        return folders[0]
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                files = [Path(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
            if files:
                files[0].open("rb").close()
        except PermissionError:
            return folder
    return None


def confine(readable: Sequence[Path]) -> str:
    """From now on this thread, and threads that it starts, open what is in these folders to read it, and nothing else.

    Returns what to warn of: Landlock knows a file by its inode, and some network file systems make a new one at each
    look, so their files could not be read. A thread of its own finds that out, for restrictions cannot be taken back;
    nothing is restricted then. '' if all is well, or the kernel has no Landlock. The caller must have no_new_privs set.
    """
    if _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION) < 1:
        return ""
    folders = [folder for folder in readable if folder.is_dir()]
    ruleset = _ruleset(folders)

    def restrict() -> int:
        return int(_syscall(_RESTRICT_SELF, ruleset, 0))

    try:
        with ThreadPoolExecutor(1) as probe:
            closed = probe.submit(_first_closed, restrict, folders).result()
        if closed is None and not restrict():
            return ""
    finally:
        if ruleset >= 0:
            os.close(ruleset)
    return (
        f"Landlock could not be applied (it does not work on the file system of {closed}): "
        "the compiler keeps its capabilities and can open any file"
    )
