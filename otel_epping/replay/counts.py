# SPDX-License-Identifier: Apache-2.0
"""Computes totals of a reading over all subnets and interfaces, for the report of a replay."""

import numpy as np

from otel_epping.kernel.reading import Reading
from otel_epping.otel import semconv

# The outcomes of an RTT sample. With the prefix `rtt_`, they are fields of the program's struct interface_counters.
_OUTCOMES = ("measured", "expired", "superseded", "repeated", "abandoned")


def packets(reading: Reading) -> dict[str, int]:
    """Returns the number of packets on all interfaces by kind, in the order of semconv.PACKET_KINDS."""
    counts = sum(reading.interfaces[way]["packets"].sum(axis=0) for way in ("received", "transmitted"))
    return dict(zip(semconv.PACKET_KINDS, np.asarray(counts).tolist(), strict=True))


def rtt_outcomes(reading: Reading, waiting: int) -> dict[str, int]:
    """Returns the number of RTT samples by outcome.

    The first entry, `begun`, is the number of all started samples. It is the sum of the other entries. `waiting` is the
    number of samples that still wait for a reply. The number of evicted samples is computed from the other numbers. If
    an entry of the flow table or of the table of requests is evicted, its waiting samples are evicted too.
    """
    counts = {outcome: int(reading.interfaces[f"rtt_{outcome}"].sum()) for outcome in ("begun", *_OUTCOMES)}
    evicted = counts["begun"] - sum(counts[outcome] for outcome in _OUTCOMES) - waiting
    return counts | {"still waiting": waiting, "evicted": evicted}


def clamped(reading: Reading) -> int:
    """Returns the number of measured RTTs outside the histogram range.

    Such an RTT is counted as the lower or upper limit of the range.
    """
    return int(reading.interfaces["rtt_clamped"].sum())


def not_started(reading: Reading) -> int:
    """Returns the number of RTT samples that were not started because of the limit OUTSTANDING (bpf/maps.h).

    OUTSTANDING is the maximum number of waiting samples for each flow and direction.
    """
    return int(reading.interfaces["rtt_not_begun"].sum())


def timestamp_faults(reading: Reading) -> dict[str, int]:
    """For each cause, returns the number of TCP flow directions whose method changed to sequence numbers.

    Before the change, their RTTs were measured by timestamps. The causes are semconv.TIMESTAMP_FAULTS.
    """
    counts: list[int] = reading.interfaces["timestamp_fault"].sum(axis=0).tolist()
    return dict(zip(semconv.TIMESTAMP_FAULTS, counts, strict=True))


def duplicates(reading: Reading) -> int:
    """Returns the number of packets that were captured again at a later point of their path."""
    return int(reading.interfaces["duplicates"].sum())


def share_without_timestamps(reading: Reading) -> float:
    """Returns the share of TCP packets without timestamps, from 0 to 1. Returns 0 if no TCP packets were counted."""
    by_class: list[int] = reading.counters["classes"]["from"]["packets"].sum(axis=0).tolist()
    counts = dict(zip(semconv.TRAFFIC_CLASSES, by_class, strict=True))
    return counts["tcp_other"] / max(1, counts["tcp_other"] + counts["tcp_timestamp"])
