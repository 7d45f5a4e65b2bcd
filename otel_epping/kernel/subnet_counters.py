# SPDX-License-Identifier: Apache-2.0
"""All that is counted for a subnet but its RTTs, as one record of 64-bit numbers for each slot.

They come from `traffic`, which has a row for each CPU, and from `flow_counters`, which all CPUs share (bpf/maps.h).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel.extremes import Counts
from otel_epping.kernel.flows import FlowTable
from otel_epping.kernel.memory import Array

_UNUSED = "unused"
_ECN = ("ecn_from", "ecn_to")
_SILENCE = "silence"


def _wide(array: Array, left_out: tuple[str, ...]) -> list[tuple[str, Any]]:
    return [(name, array.dtype[name]) for name in array.dtype.names or () if name not in left_out]


class SubnetCounters:
    """One reader's account of the counters. `dtype` is that of a record:

    from, to             (classes,) packets and bytes
    ecn_from, ecn_to     (3,) packets by ECN code point, 1 to 3
    retransmitted...     fields of the program's struct flow_counters
    silence              ends of flows that ended in silence
    """

    def __init__(self, traffic: Array, flow_counters: Array, flows: FlowTable, cpus: int) -> None:
        self._traffic, self._flow_counters, self._flows, self._cpus = traffic, flow_counters, flows, cpus
        ecn = [(name, np.uint64, traffic.dtype[name].shape) for name in _ECN]
        self.dtype = np.dtype(
            [*_wide(traffic, (_UNUSED, *_ECN)), *ecn, *_wide(flow_counters, ()), (_SILENCE, np.uint64)]
        )
        self._last = np.zeros(0, self.dtype)

    def read(self, rows: int, epoch: int) -> tuple[npt.NDArray[Any], Counts, int]:
        """Records of the first `rows` slots; how many ends of active flows each has; places taken in the flow table."""
        counters = np.zeros(rows, self.dtype)
        known = len(self._last)
        counters[:known] = self._last
        traffic = self._traffic.first(rows * self._cpus).reshape(rows, self._cpus)
        for name in ("from", "to"):
            tallies = np.ascontiguousarray(traffic[name])
            counters[name] = tallies.view(np.uint64).reshape(rows, self._cpus, -1).sum(1).view(tallies.dtype)
        for name in _ECN:  # 32 bits, which may have wrapped around, so the difference is taken modulo 2^32
            seen = counters[name]
            counters[name] = seen + (traffic[name].sum(1, dtype=np.uint32) - seen.astype(np.uint32))
        of_flows = self._flow_counters.first(rows)
        for name in of_flows.dtype.names or ():
            counters[name] = of_flows[name]
        # In this order: a flow that opens in between is active and not yet opened, and none seems to have ended. One
        # that closes in between seems to have ended in silence, until the next does: the count only ever grows.
        active, taken = self._flows.active(rows, epoch)
        ended = counters["opened"].sum(1) - counters["closed"].sum(1) - active
        counters[_SILENCE] = np.maximum(counters[_SILENCE], np.where(ended.view(np.int64) > 0, ended, 0))
        self._last = counters
        return counters.copy(), active, taken
