# SPDX-License-Identifier: Apache-2.0
"""What user space tells the program while it runs: the program's `struct control` (bpf/maps.h)."""

import numpy as np

from otel_epping.kernel import libbpf, memory
from otel_epping.kernel.loader import Map

FIRST_EPOCH = 1  # the program takes 0 for "nothing cached yet"


class Control:
    """The epoch of slots and the number of the interval: tell() them when they have changed."""

    def __init__(self, control: Map) -> None:
        self.epoch = FIRST_EPOCH
        self.interval = 0
        self._map = control

    def tell(self) -> None:
        """Has the program know."""
        assert self._map.layout
        value = np.zeros(1, memory.dtype_of(self._map.layout))
        value["epoch"], value["interval"] = self.epoch, self.interval
        libbpf.map_update(self._map.fd, np.uint32(0).tobytes(), value.tobytes())
