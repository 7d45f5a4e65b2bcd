# SPDX-License-Identifier: Apache-2.0
"""The program on an interface by TCX links, which Linux has from 6.6 on.

A link lives as long as its descriptor: the kernel detaches the program when this process ends, however it ends.
"""

import errno
import os

from otel_epping.kernel import libbpf, memory

_ATTACH_TYPES = {"ingress": libbpf.BPF_TCX_INGRESS, "egress": libbpf.BPF_TCX_EGRESS}
_LOOPBACK = 1


def is_known() -> bool:
    """Whether the kernel has TCX hooks. Ask with CAP_NET_ADMIN: without it, the answer is yes."""
    try:
        libbpf.attached_count(_LOOPBACK, libbpf.BPF_TCX_INGRESS)
    except OSError as error:
        return error.errno != errno.EINVAL
    return True


class Link:
    """A program on one hook of an interface, `direction` being ingress or egress. Raises OSError."""

    def __init__(self, program_fd: int, ifindex: int, direction: str) -> None:
        self._fd = libbpf.link_create(program_fd, ifindex, _ATTACH_TYPES[direction])

    def holds(self) -> bool:
        """Whether it is on the interface still: the kernel cuts the links of one that goes away."""
        try:
            return bool(memory.map_info(self._fd).get("ifindex"))
        except OSError:  # closed meanwhile, by another thread
            return False

    def detach(self) -> None:
        """Takes the program off."""
        os.close(self._fd)
