/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts an RTT in the exponential histogram of a slot. The program chooses the same bucket as an OpenTelemetry SDK.
 *
 * At scale s, bucket i holds the values v in seconds with 2^(i/2^s) < v <= 2^((i+1)/2^s) (OpenTelemetry metrics data
 * model, "ExponentialHistogram"). In nanoseconds, the lower edge of bucket i is T(i) = floor(1e9 * 2^(i/2^s)), an
 * integer. User space computes all edges (otel_epping/kernel/buckets.py). The program finds the bucket without a
 * logarithm or a search. The leading s + 2 bits of the RTT select a cell. A cell is a range of RTTs that contains at
 * most one edge. The cell stores this edge and the bucket below the edge, so one comparison finds the bucket.
 */
#pragma once

#include "maps.h"

#define RTT_MIN_NS 1000ULL
#define RTT_MAX_NS 64000000000ULL
/* The number of the leading bit of RTT_MIN_NS. It is 9, because 2^9 <= 1000 < 2^10. */
#define CELL_FIRST_OCTAVE 9

/*
 * An RTT has 36 bits. The other 28 bits of a min_word or max_word are the number of the interval. If an interval takes
 * one second, 28 bits are enough for eight years.
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
 * For a maximum, the value is interval << 36 | RTT. For a minimum, the value is interval << 36 | (RTT_MASK - RTT). So
 * the first value of a new interval is greater than all values of the previous interval, and the program never has to
 * reset the word. Even and odd intervals have separate words. So user space can first increment the number of the
 * interval, and then read the words of the interval that ended.
 *
 * Benign race: after ATOMIC_MAX_TRIES failed exchanges the value is dropped. The exchanges fail only if more than
 * ATOMIC_MAX_TRIES CPUs count RTTs of one subnet within nanoseconds. At worst the minimum or maximum of an interval
 * does not include one RTT.
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

    /* These loads request both cache lines early. Without the loads, each atomic addition, and all instructions after
     * it, would wait for a cache line. */
    asm volatile("" ::"r"(histogram->began), "r"(histogram->buckets[bucket]));
    /* A reader reads `ended` first and `began` last. If `began` and `ended` are equal, the row is consistent
     * (histograms.py). */
    __sync_fetch_and_add(&histogram->began, 1);
    __sync_fetch_and_add(&histogram->buckets[bucket], 1);
    __sync_fetch_and_add(&histogram->sum_ns, rtt_ns);
    atomic_max(&histogram->min_word[parity], tag | (RTT_MASK - rtt_ns));
    atomic_max(&histogram->max_word[parity], tag | rtt_ns);
    __sync_fetch_and_add(&histogram->ended, 1);
}
