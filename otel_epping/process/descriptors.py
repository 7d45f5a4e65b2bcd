# SPDX-License-Identifier: Apache-2.0
"""Raises the limit on file descriptors (RLIMIT_NOFILE), and keeps a reserve of descriptors.

Each watched interface takes two descriptors. Without a reserve, interfaces could take the last free descriptor, so that
no export could connect, and no file could be read.
"""

import errno
import os
import resource
from contextlib import suppress

# The kernel's default of fs.nr_open. Some containers allow more descriptors. This process limits itself to the default,
# because some programs close every possible descriptor, which takes seconds if the limit is higher.
_MAX_LIMIT = 1 << 20
# Exporters, health probes and netlink sockets take about 20 descriptors.
_RESERVE = 64


def raise_limit() -> None:
    """Raises the soft limit of this process to the hard limit, but at most to _MAX_LIMIT.

    The default soft limit is low, because some programs use select(), which supports only descriptors up to 1023.
    """
    with suppress(OSError, ValueError):  # if a seccomp filter refuses setrlimit(), fewer interfaces can be watched
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MAX_LIMIT)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require(count: int, fd: int) -> None:
    """Raises OSError (EMFILE) if `count` more open descriptors would reduce the reserve.

    `fd` is any open descriptor. The function duplicates `fd` for a moment to find the lowest free descriptor.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowest_free = os.dup(fd)
    os.close(lowest_free)
    if limit != resource.RLIM_INFINITY and lowest_free + count > limit - min(_RESERVE, limit // 4):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
