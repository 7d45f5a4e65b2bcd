/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts an RTT in the exponential histogram of a slot. The program chooses the same bucket as an OpenTelemetry SDK.
 *
 * At scale s, bucket i holds the values v in seconds with 2^(i/2^s) < v <= 2^((i+1)/2^s) (OpenTelemetry metrics data
 * model, "ExponentialHistogram"). In whole nanoseconds the lower edges are T(i) = floor(1e9 * 2^(i/2^s)), exact
 * integers that user space computes (otel_epping/kernel/buckets.py). The program finds the bucket without a logarithm
 * or a search. The leading s + 2 bits of the RTT select a cell: a range that is so narrow that it contains at most one
 * edge. The cell stores this edge and the bucket below the edge, so one comparison is enough.
 */
#pragma once

#include "maps.h"

#define RTT_MIN_NS 1000ULL
#define RTT_MAX_NS 64000000000ULL
/* The leading bit of RTT_MIN_NS: 2^9 <= 1000 < 2^10. */
#define CELL_FIRST_OCTAVE 9

/*
 * An RTT has 36 bits. The other 28 bits of a min_word or max_word are the number of the interval. With one interval per
 * second, these bits are enough for eight years.
 */
#define RTT_BITS 36
#define RTT_MASK ((1ULL << RTT_BITS) - 1)
#define ATOMIC_MAX_TRIES 8

_Static_assert(RTT_MIN_NS >> CELL_FIRST_OCTAVE == 1, "the cells begin with the octave of the least RTT");
_Static_assert(RTT_MAX_NS >> (CELL_FIRST_OCTAVE + CELL_OCTAVES - 1) == 1, "and end with that of the greatest");
_Static_assert(RTT_MAX_NS <= RTT_MASK, "an RTT has 36 bits");

static __always_inline u32 leading_bit(u64 value)
{
    u32 bit = 0;

#define HALVE(n)      \
    if (value >> n) { \
        value >>= n;  \
        bit += n;     \
    }
    HALVE(32)
    HALVE(16)
    HALVE(8)
    HALVE(4)
    HALVE(2)
    HALVE(1)
#undef HALVE
    return bit;
}

static __always_inline u64 bucket_of(u64 rtt_ns)
{
    u32 octave = leading_bit(rtt_ns);
    u32 fraction = (rtt_ns >> (octave - (SCALE + 1))) & ((1 << (SCALE + 1)) - 1);
    u32 index = ((octave - CELL_FIRST_OCTAVE) << (SCALE + 1)) | fraction;
    struct cell *cell = cells.lookup(&index);

    return cell ? cell->bucket + (rtt_ns > cell->edge_ns) : 0; /* the cell always exists */
}

/*
 * Sets a word to `value` if `value` is greater than the word.
 *
 * The value is interval << 36 | RTT, or for a minimum interval << 36 | (RTT_MASK - RTT). So the first value of a new
 * interval is greater than all values of the previous interval, and the word never has to be reset. Even and odd
 * intervals have separate words. So user space can first raise the number of the interval and then read the words of
 * the interval that ended.
 *
 * Benign race: after ATOMIC_MAX_TRIES failed exchanges the value is dropped. This happens only if more than
 * ATOMIC_MAX_TRIES CPUs count RTTs of one subnet within nanoseconds. At worst the minimum or maximum of an interval
 * lacks one RTT.
 */
static __always_inline void atomic_max(u64 *word, u64 value)
{
    u64 current = *word;

    for (int i = 0; i < ATOMIC_MAX_TRIES && current < value; i++) {
        u64 before = __sync_val_compare_and_swap(word, current, value);

        if (before == current)
            break;
        current = before;
    }
}

static __always_inline void histogram_record(u32 slot, u64 rtt_ns, struct interface_counters *counters)
{
    struct histogram *histogram = histograms.lookup(&slot);
    const struct control *control = current_control();

    if (!histogram)
        return;

    if (rtt_ns < RTT_MIN_NS) {
        rtt_ns = RTT_MIN_NS;
        counters->rtt_clamped[0]++;
    } else if (rtt_ns > RTT_MAX_NS) {
        rtt_ns = RTT_MAX_NS;
        counters->rtt_clamped[1]++;
    }

    u64 bucket = bounded(bucket_of(rtt_ns), BUCKETS);
    u32 interval = control->interval;
    u64 tag = (u64)interval << RTT_BITS, parity = bounded(interval & 1, 2);

    /* These loads request both cache lines early, because an atomic addition waits for its cache line, and the
     * instructions after the addition wait, too. */
    asm volatile("" ::"r"(histogram->began), "r"(histogram->buckets[bucket]));
    /* A reader that reads `ended` first, and later reads the same number in `began`, has a consistent row
     * (histograms.py). */
    __sync_fetch_and_add(&histogram->began, 1);
    __sync_fetch_and_add(&histogram->buckets[bucket], 1);
    __sync_fetch_and_add(&histogram->sum_ns, rtt_ns);
    atomic_max(&histogram->min_word[parity], tag | (RTT_MASK - rtt_ns));
    atomic_max(&histogram->max_word[parity], tag | rtt_ns);
    __sync_fetch_and_add(&histogram->ended, 1);
}
