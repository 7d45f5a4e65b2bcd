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

#include "hash.h"
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

/* Returns the low (0) or high (1) 32-bit number of a word. */
static __always_inline u32 number_of(u64 pair, u64 high)
{
    return pair >> 32 * high;
}

/*
 * Sets the low or high number of a word, unless another CPU has set it. Returns 0 after success, and otherwise the
 * other CPU's number. A number is set only once, so the exchange fails at most twice.
 */
static __always_inline u32 set_number(u64 *pair, u64 high, u32 number)
{
    u64 before = *pair;

    for (int i = 0; i < 3 && !number_of(before, high); i++) {
        u64 current = __sync_val_compare_and_swap(pair, before, before | (u64)number << 32 * high);

        if (current == before)
            return 0;
        before = current;
    }
    return number_of(before, high);
}

/*
 * Limits on histograms and blocks. A covering prefix is large if it has more than a quarter of all slots.
 *
 * - If less than a quarter of all histograms is free, a slot of a large covering prefix gets only one histogram. If
 *   less than a quarter of all blocks is free, each histogram of such a slot gets only FAIR_BLOCKS blocks.
 * - If less than an eighth of all histograms is free, a slot of a large covering prefix gets no further histogram. If
 *   less than an eighth of all blocks is free, the histograms of such a slot get no further blocks.
 * - Other slots have the limits of one histogram and FAIR_BLOCKS blocks only if less than 1/16 is free.
 *
 * So an attacker who answers from a large network cannot take the last histograms and blocks from other networks.
 */
#define FAIR_BLOCKS (4 << (SCALE > 4 ? SCALE - 4 : 0)) /* at least four octaves at each scale */

enum share { SHARE_FREE, SHARE_FAIR, SHARE_NONE };

/* Returns whether a slot may have another histogram or block. `limit` is the number of all histograms or blocks. */
static __always_inline enum share share_of(const struct slot *slot, const struct claims *used, u32 limit)
{
    u32 row = slot->state >> 8 & 0xffffff, free = limit - in_use(used);
    const struct claims *covering = claims.lookup(&row);

    if (!covering || in_use(covering) <= MAX_SLOTS / 4)
        return free <= limit / 16 ? SHARE_FAIR : SHARE_FREE;
    if (free <= limit / 8)
        return SHARE_NONE;
    return free <= limit / 4 ? SHARE_FAIR : SHARE_FREE;
}

/*
 * Takes a free block for 16 buckets of a histogram. Returns NO_BLOCK if no block is free, or if the limits allow no
 * further block. The overflow histogram has all of its blocks, so only histograms of slots get here.
 *
 * Benign race: two CPUs may increment `blocks_used` at the same time, so the number may be too low. At worst the
 * histogram gets more than FAIR_BLOCKS blocks.
 */
static __always_inline u32 claim_block(struct histogram *histogram, u64 pair, u64 place)
{
    u32 number, theirs, row = CLAIMS_BLOCKS;
    struct claims *used = claims.lookup(&row);
    u32 index = histogram->slot;
    struct slot *slot = slots.lookup(&index);
    enum share share;

    if (!used || !slot)
        return NO_BLOCK;
    share = share_of(slot, used, MAX_BLOCKS);
    if (share == SHARE_NONE || (share == SHARE_FAIR && histogram->blocks_used >= FAIR_BLOCKS))
        return NO_BLOCK;
    if (free_blocks.pop(&number))
        number = fresh_row(used, 1, MAX_BLOCKS);
    if (!number)
        return NO_BLOCK;
    theirs = set_number(&histogram->blocks[pair], place & 1, number);
    if (theirs == NO_BLOCK) {
        __sync_fetch_and_add(&used->claimed, 1);
        histogram->blocks_used++;
        return number;
    }
    free_blocks.push(&number, 0); /* another CPU was first */
    return theirs;
}

static __always_inline struct block *block_of(struct histogram *histogram, u64 bucket)
{
    u64 place = bucket / BLOCK_BUCKETS, pair = bounded(place / 2, PAIRS(HISTOGRAM_BLOCKS));
    u32 number = number_of(histogram->blocks[pair], place & 1) ?: claim_block(histogram, pair, place);

    return number == NO_BLOCK ? 0 : blocks.lookup(&number);
}

static __always_inline void histogram_record(u32 number, u64 rtt_ns, struct interface_counters *counters)
{
    u32 overflow = OVERFLOW_HISTOGRAM;
    struct histogram *histogram = histograms.lookup(&number);
    const struct control *control = current_control();

    if (rtt_ns < RTT_MIN_NS) {
        rtt_ns = RTT_MIN_NS;
        counters->rtt_clamped[0]++;
    } else if (rtt_ns > RTT_MAX_NS) {
        rtt_ns = RTT_MAX_NS;
        counters->rtt_clamped[1]++;
    }

    u64 bucket = bucket_of(rtt_ns);
    struct block *block = histogram ? block_of(histogram, bucket) : 0;

    if (!block) { /* no block for this bucket; the overflow histogram has a block for each bucket */
        histogram = histograms.lookup(&overflow);
        block = histogram ? block_of(histogram, bucket) : 0;
    }
    if (!histogram || !block)
        return;

    u64 place = bucket % BLOCK_BUCKETS;
    u32 interval = control->interval;
    u64 tag = (u64)interval << RTT_BITS, parity = bounded(interval & 1, 2);

    /* These loads request both cache lines early, because an atomic addition waits for its cache line, and the
     * instructions after the addition wait, too. */
    asm volatile("" ::"r"(histogram->began), "r"(block->buckets[place]));
    /* A reader that reads `ended` first, and later reads the same number in `began`, has a consistent row
     * (histograms.py). */
    __sync_fetch_and_add(&histogram->began, 1);
    __sync_fetch_and_add(&block->buckets[place], 1);
    __sync_fetch_and_add(&histogram->sum_ns, rtt_ns);
    atomic_max(&histogram->min_word[parity], tag | (RTT_MASK - rtt_ns));
    atomic_max(&histogram->max_word[parity], tag | rtt_ns);
    __sync_fetch_and_add(&histogram->ended, 1);
}
