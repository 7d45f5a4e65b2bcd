# SPDX-License-Identifier: Apache-2.0
"""How many packets wait for their reply: what an account of round-trip times lacks while they do."""

from typing import Any

import numpy as np
import numpy.typing as npt

from otel_epping.kernel import libbpf, memory
from otel_epping.kernel.loader import Map
from otel_epping.kernel.memory import Array

# enum transaction_state, bpf/transaction.h
_OPEN = 0


def count_waiting(flows: Array, transactions: Map) -> int:
    """Packets that the program timed and that were not answered yet, of all flows and questions.

    Flows take as long as all their memory takes to read. Raises OSError.
    """
    return _in_flows(flows) + _in_transactions(transactions)


def _in_flows(flows: Array) -> int:
    count = 0
    for _, rows in flows.windows(flows.length):
        halves: npt.NDArray[Any] = rows["half"]
        # A bit for each segment that waits (struct half_flow), and the time of a SYN-ACK that does.
        count += int(np.unpackbits(halves["pending"]).sum()) + int(np.count_nonzero(halves["syn_ack_ns"]))
    return count


def _in_transactions(transactions: Map) -> int:
    assert transactions.layout
    assert transactions.key_layout
    key, value = memory.dtype_of(transactions.key_layout), memory.dtype_of(transactions.layout)
    return sum(
        int(np.count_nonzero(values["state"] == _OPEN)) for _, values in libbpf.map_batches(transactions.fd, key, value)
    )
