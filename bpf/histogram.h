/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Counts an RTT into the exponential histogram of a slot, in the very bucket that an OpenTelemetry SDK would choose.
 *
 * At scale s a bucket i holds the seconds v with 2^(i/2^s) < v <= 2^((i+1)/2^s) (OpenTelemetry metrics data model,
 * "ExponentialHistogram"). In whole nanoseconds its edges are T(i) = floor(1e9 * 2^(i/2^s)), exact integers that user
 * space computes (otel_epping/kernel/buckets.py). To find a bucket without logarithm or search, the RTT's leading
 * s + 2 bits name a cell: a range of nanoseconds so narrow that at most one edge lies in it. The cell knows the
 * bucket below that edge, and one comparison does the rest.
 */
#pragma once

#include "maps.h"
#include "compiler.h"

#define RTT_LEAST_NS 1000ULL
#define RTT_GREATEST_NS 64000000000ULL
/* The leading bit of the least RTT: 2^9 <= 1000 < 2^10. */
#define CELL_FIRST_OCTAVE 9

/* RTTs take 36 bits; the rest of an extreme's word is the number of its interval: eight years of seconds. */
#define EXTREME_BITS 36
#define EXTREME_MASK ((1ULL << EXTREME_BITS) - 1)
#define EXTREME_TRIES 8

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

    return cell ? cell->bucket + (rtt_ns > cell->edge_ns) : 0; /* there is always a cell */
}

/*
 * Extremes of one interval, with nothing ever reset: a word is interval << 36 | value, and the greater word wins, so
 * the first RTT of a new interval beats all of the old one. Even and odd intervals have words of their own, so that
 * user space can raise the interval first and then read, at leisure, the words of the one that ended.
 * EXTREME_TRIES CPUs would have to count RTTs of one subnet within nanoseconds for an extreme to be given up: benign.
 */
static __always_inline void raise_word(u64 *word, u64 value)
{
    u64 seen = *word;

    for (int i = 0; i < EXTREME_TRIES && seen < value; i++) {
        u64 before = __sync_val_compare_and_swap(word, seen, value);

        if (before == seen)
            break;
        seen = before;
    }
}

static __always_inline void histogram_record(u32 slot, u64 rtt_ns, struct interface_counters *counters)
{
    struct histogram *histogram = histograms.lookup(&slot);
    const struct control *told = what_is_told();

    if (!histogram)
        return;

    if (rtt_ns < RTT_LEAST_NS) {
        rtt_ns = RTT_LEAST_NS;
        counters->rtt_clamped[0]++;
    } else if (rtt_ns > RTT_GREATEST_NS) {
        rtt_ns = RTT_GREATEST_NS;
        counters->rtt_clamped[1]++;
    }

    u64 bucket = bounded(bucket_of(rtt_ns), BUCKETS);
    u32 interval = told->interval;
    u64 tag = (u64)interval << EXTREME_BITS, parity = bounded(interval & 1, 2);

    /* A locked addition waits for its cache line, and all that follows for it: so both are asked for beforehand. */
    asm volatile("" ::"r"(histogram->began), "r"(histogram->buckets[bucket]));
    /* A reader that finds `began` as great as `ended` was before has read a whole row; see reader.py. */
    __sync_fetch_and_add(&histogram->began, 1);
    __sync_fetch_and_add(&histogram->buckets[bucket], 1);
    __sync_fetch_and_add(&histogram->sum_ns, rtt_ns);
    raise_word(&histogram->min_word[parity], tag | (EXTREME_MASK - rtt_ns));
    raise_word(&histogram->max_word[parity], tag | rtt_ns);
    __sync_fetch_and_add(&histogram->ended, 1);
}
