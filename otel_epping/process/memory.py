# SPDX-License-Identifier: Apache-2.0
"""Returns free memory of the process to the kernel."""

import ctypes


def trim() -> None:
    """Returns memory that malloc keeps for later to the kernel, if the C library can do this (glibc).

    After a large file was read, malloc keeps tens of megabytes, because the free memory is in many small parts.
    """
    trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim_heap:
        trim_heap(0)
