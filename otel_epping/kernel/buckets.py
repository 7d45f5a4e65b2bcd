# SPDX-License-Identifier: Apache-2.0
"""The exact edges of the histogram's buckets, in whole nanoseconds.

At scale s, bucket i of an OpenTelemetry exponential histogram holds the values v with 2^(i/2^s) < v <= 2^((i+1)/2^s)
seconds (metrics data model, "ExponentialHistogram"). A whole number of nanoseconds v is in bucket i if
edge(i) < v <= edge(i + 1), where edge(i) = floor(1e9 * 2^(i/2^s)). Although the edges are rounded down, each whole
number of nanoseconds stays in its bucket, because there is no whole number n with floor(x) < n <= x.

The kernel finds the bucket of an RTT with a table of cells (bpf/histogram.h).
"""

from functools import cache
from math import isqrt

import numpy as np
import numpy.typing as npt

RTT_MIN_NS = 1_000
RTT_MAX_NS = 64_000_000_000
SCALES = range(7)

_FIRST_OCTAVE = RTT_MIN_NS.bit_length() - 1
_OCTAVES = RTT_MAX_NS.bit_length() - _FIRST_OCTAVE
_NO_EDGE = 2**64 - 1


@cache
def edge_ns(index: int, scale: int) -> int:
    """Returns 2^(index / 2^scale) seconds in ns, rounded down.

    The result is the 2^scale-th root of (1e9)^(2^scale) * 2^index. To compute this root, the function takes the integer
    square root `scale` times. Repeated integer square roots give the exact integer part of the root, so the function
    needs no floating-point arithmetic.
    """
    root: int = 10 ** (9 << scale)
    root = root << index if index >= 0 else root >> -index
    for _ in range(scale):
        root = isqrt(root)
    return root


def index_of(value_ns: int, scale: int) -> int:
    """Returns the OTLP index of the bucket that holds `value_ns`, which must be at least 1."""
    index = (value_ns.bit_length() - (10**9).bit_length() - 1) << scale
    while edge_ns(index + 1, scale) < value_ns:
        index += 1
    return index


def first_index(scale: int) -> int:
    """Returns the OTLP index of the kernel's bucket 0, which holds the smallest RTT, 1 us."""
    return index_of(RTT_MIN_NS, scale)


def bucket_count(scale: int) -> int:
    """Returns how many buckets the kernel has. The buckets cover 1 us to 64 s."""
    return index_of(RTT_MAX_NS, scale) - first_index(scale) + 1


def cells(scale: int) -> npt.NDArray[np.uint64]:
    """Returns the rows (edge_ns, bucket) of the kernel's table `cells`. The shape of the result is (cells, 2).

    All numbers of nanoseconds in a cell have the same highest bit and the same `scale + 1` bits after the highest bit.
    A cell is narrower than every bucket. So a cell contains at most one edge. In a cell, RTTs up to `edge_ns` are in
    `bucket`, and longer RTTs are in the next bucket. `edge_ns` is 2^64 - 1 if the cell contains no edge.
    """
    first = first_index(scale)
    fractions = 1 << (scale + 1)
    edges = [edge_ns(index, scale) for index in range(first, first + bucket_count(scale) + 1)]
    rows = np.empty((_OCTAVES * fractions, 2), np.uint64)
    below = 0
    for row in range(len(rows)):
        octave, fraction = divmod(row, fractions)
        width = 1 << (octave + _FIRST_OCTAVE - scale - 1)
        start = (fractions + fraction) * width
        while below + 1 < len(edges) and edges[below + 1] < start:
            below += 1
        inside = below + 1 < len(edges) and edges[below + 1] < start + width - 1
        rows[row] = (edges[below + 1] if inside else _NO_EDGE, below)
        if inside and below + 2 < len(edges) and edges[below + 2] < start + width - 1:
            raise AssertionError(f"two edges in cell {row} of scale {scale}")
    return rows
