/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records the RTTs that a packet completes in the histogram of the subnet of the packet's source, and reports the RTTs
 * as events.
 */
#pragma once

#include "flow_events.h"
#include "histogram.h"

/* Changes the state of a slot from newcomer to answered. */
static __always_inline void mark_answered(struct slot *slot)
{
    u32 row = CLAIMS_NEWCOMERS;
    struct claims *newcomers = claims.lookup(&row);

    if (newcomers && (set_state(slot, SLOT_ANSWERED) & SLOT_STATE_MASK) == SLOT_NEWCOMER)
        __sync_fetch_and_add(&newcomers->claimed, -1);
}

/* Returns the slot of the packet's source, for which an RTT has been measured. */
static __always_inline u32 answered_slot(const struct context *ctx)
{
    u32 index = ctx->source.slot;
    struct slot *slot;

    if (index < SHARED_SLOTS) {
        /* The epoch is read first: if user space reclaims the slot after the look-up, the cached epoch is too old. */
        u64 epoch = current_control()->epoch;

        index = slot_of(ctx, &ctx->source, true);
        if (ctx->has_flow)
            ctx->flow->cached_slots[ctx->source_index] = epoch << 32 | index;
    }
    slot = slots.lookup(&index);
    if (slot && index >= SHARED_SLOTS && !(slot->state & SLOT_ANSWERED))
        mark_answered(slot);
    return index;
}

static __always_inline bool has_histogram(const struct slot *slot)
{
    u64 any = 0;

    for (int i = 0; i < PAIRS(METHOD_COUNT); i++)
        any |= slot->histograms[i];
    return any;
}

/*
 * Takes a free histogram for a slot and a method. Returns the overflow histogram if no histogram is free, or if the
 * limits allow no further histogram (histogram.h).
 */
static __always_inline u32 claim_histogram(struct slot *slot, u32 index, u64 pair, u64 method)
{
    u32 number, theirs, row = CLAIMS_HISTOGRAMS;
    struct histogram *histogram;
    struct claims *used = claims.lookup(&row);
    enum share share;

    if (!used)
        return OVERFLOW_HISTOGRAM;
    share = share_of(slot, used, MAX_HISTOGRAMS);
    if (share == SHARE_NONE || (share == SHARE_FAIR && has_histogram(slot)))
        return OVERFLOW_HISTOGRAM;
    if (free_histograms.pop(&number))
        number = fresh_row(used, 1, MAX_HISTOGRAMS);
    histogram = histograms.lookup(&number);
    if (!histogram || !number)
        return OVERFLOW_HISTOGRAM;
    histogram->slot = index;
    histogram->method = method;
    /* This exchange is a full barrier: a reader that sees the number also sees the slot and the method. */
    theirs = set_number(&slot->histograms[pair], method & 1, number);
    if (!theirs) {
        __sync_fetch_and_add(&used->claimed, 1);
        return number;
    }
    free_histograms.push(&number, 0); /* another CPU was first */
    return theirs;
}

/* Returns the number of the histogram for a slot and a method. */
static __always_inline u32 histogram_of(u32 index, enum method method)
{
    struct slot *slot = slots.lookup(&index);

    if (!slot || index < SHARED_SLOTS)
        return OVERFLOW_HISTOGRAM;

    u64 pair = bounded(method / 2, PAIRS(METHOD_COUNT));

    return number_of(slot->histograms[pair], method & 1) ?: claim_histogram(slot, index, pair, method);
}

static __always_inline void record_rtt(const struct context *ctx, u32 slot, enum method method, u64 rtt_ns)
{
    if (rtt_ns > MAX_AGE_NS) {
        ctx->counters->rtt_expired++;
        return;
    }
    ctx->counters->rtt_measured++;
    histogram_record(histogram_of(slot, method), rtt_ns, ctx->counters);
#if EVENTS
    report_rtt(ctx, method, rtt_ns);
#endif
}

static __always_inline void record_rtts(const struct context *ctx)
{
    const struct packet *packet = ctx->packet;
    u64 now_ns = precise_now(ctx->skb), is_measured = 0;

    for (int i = 0; i < MAX_RTTS_PER_PACKET; i++)
        is_measured |= (i < packet->rtt_count) & (now_ns - packet->rtts[i].sent_ns <= MAX_AGE_NS);

    u32 slot = hide_from_verifier(ctx->packet, is_measured ? answered_slot(ctx) : ctx->source.slot);

    /* The loop is not unrolled, so that the program contains the code of record_rtt() only once. */
#pragma clang loop unroll(disable)
    for (int i = 0; i < MAX_RTTS_PER_PACKET; i++) {
        if (i < packet->rtt_count)
            record_rtt(ctx, slot, packet->rtts[i].method, now_ns - packet->rtts[i].sent_ns);
    }
}
