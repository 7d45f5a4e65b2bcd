# SPDX-License-Identifier: Apache-2.0
"""The values of `struct control` (bpf/control.h), which the program reads while it runs."""

import threading

import numpy as np

from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.program import Map

FIRST_EPOCH = 1  # the program uses epoch 0 for "no slot is cached"


class Control:
    """The present epoch of the slots, the number of the present interval, and the number of the trie of named networks.

    Any thread may use this object.
    """

    def __init__(self, control: Map) -> None:
        self.epoch = FIRST_EPOCH
        self.interval = 0
        self.networks = 0
        self._map = control
        self._lock = threading.Lock()

    def begin_epoch(self) -> None:
        """Begins a new epoch, in which the program looks up all cached slots again. Raises OSError."""
        with self._lock:
            self.epoch += 1
            self.write()

    def begin_interval(self) -> None:
        """Begins a new interval. Raises OSError."""
        with self._lock:
            self.interval += 1
            self.write()

    def use_networks(self, trie: int) -> None:
        """Changes the trie of named networks that the program uses, and begins a new epoch. Raises OSError."""
        with self._lock:
            self.networks = trie
            self.write()  # first, so that a CPU that reads the new epoch uses the new trie
            self.epoch += 1
            self.write()

    def write(self) -> None:
        """Writes all values into the map. Raises OSError."""
        assert self._map.layout
        value = np.zeros(1, map_array.dtype_of(self._map.layout))
        value["epoch"], value["interval"] = self.epoch, self.interval
        if "networks" in (value.dtype.names or ()):  # only in a program with named networks
            value["networks"] = self.networks
        libbpf.map_update(self._map.fd, np.uint32(0).tobytes(), value.tobytes())
