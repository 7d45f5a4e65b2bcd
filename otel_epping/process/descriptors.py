# SPDX-License-Identifier: Apache-2.0
"""The limit on file descriptors (RLIMIT_NOFILE): each interface takes two; a reserve is kept for everything else.

Without a reserve, interfaces could take the last descriptor. Then no export could connect, and no file could be read.
"""

import errno
import os
import resource
from contextlib import suppress

# The kernel's default of fs.nr_open. Some containers allow more; closing all descriptors up to such a limit takes
# seconds.
_MAX_LIMIT = 1 << 20
# Exporters, health probes and netlink sockets take about 20.
_RESERVE = 64


def raise_limit() -> None:
    """Raises the soft limit of this process to the hard limit. The default is low, for programs that use select()."""
    with suppress(OSError, ValueError):  # refused by a seccomp filter: the agent works with fewer interfaces
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MAX_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _MAX_LIMIT)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require(count: int, fd: int) -> None:
    """Raises OSError (EMFILE) if `count` more descriptors would take from the reserve. `fd` is any open descriptor."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    lowest_free = os.dup(fd)
    os.close(lowest_free)
    if limit != resource.RLIM_INFINITY and lowest_free + count > limit - min(_RESERVE, limit // 4):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
