# SPDX-License-Identifier: Apache-2.0
"""Returns freed memory from the heap of the C library to the kernel."""

import ctypes

# Only the GNU C library has this function. Other C libraries, such as musl, return freed memory by themselves.
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim() -> None:
    """Returns all free pages of the heap to the kernel.

    The arrays of a reading are freed when an export ends. The GNU C library keeps their memory for later allocations,
    and this memory stays resident. With 10,000 active subnets, trim() takes 0.7 ms and reduces the resident memory from
    92 to 86 MB. The alternative, a constant M_MMAP_THRESHOLD of 128 kB (mallopt(3)), has the same effect, but a reading
    and an export then take half as much CPU time again.
    """
    if _malloc_trim:
        _malloc_trim(ctypes.c_size_t(0))
