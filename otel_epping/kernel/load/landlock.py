# SPDX-License-Identifier: Apache-2.0
"""Restricts the compiler's access to files with Landlock (landlock(7); Linux 5.13 and later, if Landlock is enabled).

The compiler is a large program that runs with capabilities. The compiler needs to read the files in a few folders. The
compiler does not need to read other files, or to execute or write files. The restriction also saves at least 0.1 s,
because it prevents BCC from reading the kernel's symbols. BCC needs the kernel's symbols only for a helper function
that our program does not call.

The loader runs this file by its path, so the file imports nothing from this package.
"""

import ctypes
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The numbers of the system calls, which are the same on all architectures, and constants of linux/landlock.h.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
# ABI version -> the rights that this version added. Version 1 added the rights to execute, write, read, remove and make
# files. Version 2 added the right to link and rename files. Version 3 added the right to truncate files.
_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14}
_READ = 1 << 2 | 1 << 3  # LANDLOCK_ACCESS_FS_READ_FILE, LANDLOCK_ACCESS_FS_READ_DIR

_syscall = ctypes.CDLL(None).syscall


def _ruleset(folders: Sequence[Path]) -> int:
    """Returns the descriptor of a ruleset that allows a thread only to read files in `folders`.

    Returns -1 if Landlock refuses the ruleset.
    """
    version = _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    handled = ctypes.c_uint64(sum(rights for since, rights in _RIGHTS.items() if since <= version))
    ruleset: int = _syscall(_CREATE_RULESET, ctypes.byref(handled), 8, 0)
    for folder in folders:
        fd = os.open(folder, os.O_PATH)
        path_beneath = _READ.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        failed = _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, path_beneath, 0)
        os.close(fd)
        if failed:
            return -1
    return ruleset


def _first_unreadable(restrict: Callable[[], int], folders: Sequence[Path]) -> Path | None:
    """Restricts the calling thread. Returns the first folder that the restricted thread cannot read.

    Returns None if the thread can read all folders.
    """
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
    """Restricts the calling thread so that the thread can only read files in the folders `readable`.

    The restriction also applies to threads that the calling thread starts later. Returns a warning if the thread could
    not be restricted. Returns '' if the thread is restricted, or if the kernel has no Landlock. The caller must have
    set no_new_privs.

    Landlock identifies files by inode. Some network file systems create a new inode at each access, so a restricted
    thread cannot read files on these file systems. A restriction cannot be removed, so another thread tests the
    restriction first.
    """
    if _syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION) < 1:
        return ""
    folders = [folder for folder in readable if folder.is_dir()]
    ruleset = _ruleset(folders)

    def restrict() -> int:
        return int(_syscall(_RESTRICT_SELF, ruleset, 0))

    try:
        with ThreadPoolExecutor(1) as test_thread:
            unreadable = test_thread.submit(_first_unreadable, restrict, folders).result()
        if unreadable is None and not restrict():
            return ""
    finally:
        if ruleset >= 0:
            os.close(ruleset)
    return (
        f"Landlock could not be applied (it does not work on the file system of {unreadable}): "
        "the compiler keeps its capabilities and can open any file"
    )
