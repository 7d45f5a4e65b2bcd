# SPDX-License-Identifier: Apache-2.0
"""Adds up the counts of all subnets and interfaces in a reading, for the report of a replay."""

import numpy as np

from otel_epping.kernel.reading import Reading
from otel_epping.otel import semconv

# The outcomes of an RTT sample. For each outcome, struct interface_counters of the kernel program has a field whose
# name is `rtt_` and the outcome.
_OUTCOMES = ("measured", "expired", "superseded", "repeated", "abandoned")


def packets(reading: Reading) -> dict[str, int]:
    """Returns the number of packets of each kind on all interfaces, in the order of semconv.PACKET_KINDS."""
    counts = sum(reading.interfaces[way]["packets"].sum(axis=0) for way in ("received", "transmitted"))
    return dict(zip(semconv.PACKET_KINDS, np.asarray(counts).tolist(), strict=True))


def rtt_outcomes(reading: Reading, waiting: int) -> dict[str, int]:
    """Returns the number of RTT samples with each outcome.

    The first entry, `begun`, is the number of all started samples, which is the sum of the other entries. `waiting` is
    the number of samples that still wait for a reply. The number of evicted samples is computed from the other entries.
    A waiting sample is evicted if its entry in the flow table or in the map of requests is evicted.
    """
    counts = {outcome: int(reading.interfaces[f"rtt_{outcome}"].sum()) for outcome in ("begun", *_OUTCOMES)}
    evicted = counts["begun"] - sum(counts[outcome] for outcome in _OUTCOMES) - waiting
    return counts | {"still waiting": waiting, "evicted": evicted}


def clamped(reading: Reading) -> int:
    """Returns the number of measured RTTs outside the histogram range.

    An RTT outside the histogram range is counted as the lower or upper limit of the range.
    """
    return int(reading.interfaces["rtt_clamped"].sum())


def not_started(reading: Reading) -> int:
    """Returns the number of RTT samples that were not started because of the limit MAX_OUTSTANDING (bpf/flow_maps.h).

    MAX_OUTSTANDING is the maximum number of waiting samples in one direction of a flow.
    """
    return int(reading.interfaces["rtt_not_begun"].sum())


def timestamp_faults(reading: Reading) -> dict[str, int]:
    """Returns the number of TCP flow directions whose RTTs are measured by sequence numbers instead of timestamps.

    Counts each flow direction when the method changes from timestamps to sequence numbers, separately for each cause in
    semconv.TIMESTAMP_FAULTS.
    """
    counts: list[int] = reading.interfaces["timestamp_fault"].sum(axis=0).tolist()
    return dict(zip(semconv.TIMESTAMP_FAULTS, counts, strict=True))


def duplicates(reading: Reading) -> int:
    """Returns the number of packets that are copies of an earlier packet in the capture."""
    return int(reading.interfaces["duplicates"].sum())


def share_without_timestamps(reading: Reading) -> float:
    """Returns the fraction of TCP packets without timestamps, from 0 to 1, or 0 if no TCP packets were counted."""
    by_class: list[int] = reading.counters["classes"]["from"]["packets"].sum(axis=0).tolist()
    counts = dict(zip(semconv.TRAFFIC_CLASSES, by_class, strict=True))
    return counts["tcp_other"] / max(1, counts["tcp_other"] + counts["tcp_timestamp"])
