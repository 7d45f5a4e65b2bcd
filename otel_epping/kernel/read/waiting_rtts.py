# SPDX-License-Identifier: Apache-2.0
"""Counts RTT samples that were started but are not completed yet.

The histograms contain the RTT of a sample only after the reply arrives.
"""

import numpy as np

from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.arrays import Records
from otel_epping.kernel.map_array import Array
from otel_epping.kernel.program import Map

# The first value of enum transaction_state (bpf/transaction.h), which means that a request waits for its reply.
_OPEN = 0


def count_waiting(flows: Array, transactions: Map) -> int:
    """Returns the number of RTT samples that wait for a reply, in TCP flows and in transactions.

    Reads the whole flow table. Raises OSError.
    """
    return _in_flows(flows) + _in_transactions(transactions)


def _in_flows(flows: Array) -> int:
    count = 0
    for _, rows in flows.windows(flows.length):
        halves: Records = rows["half"]
        # struct half_flow has one bit for each segment that waits for a reply. If a SYN-ACK waits for its ACK, the
        # struct has the time of the SYN-ACK.
        count += int(np.unpackbits(halves["pending"]).sum()) + int(np.count_nonzero(halves["syn_ack_ns"]))
    return count


def _in_transactions(transactions: Map) -> int:
    assert transactions.layout
    assert transactions.key_layout
    key, value = map_array.dtype_of(transactions.key_layout), map_array.dtype_of(transactions.layout)
    return sum(
        int(np.count_nonzero(values["state"] == _OPEN)) for _, values in libbpf.map_batches(transactions.fd, key, value)
    )
