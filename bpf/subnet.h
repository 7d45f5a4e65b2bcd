/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the slot of an address's subnet. User space fills the queue of free slots. Only user space reclaims slots. To
 * reclaim a slot, user space deletes the subnet's key, increments the epoch, waits for one interval, and then puts the
 * slot into the queue again.
 */
#pragma once

#include "clock.h"
#include "context.h"

/* A 64-bit mask, in network byte order, whose first `bits` bits are 1. */
#define MASK64(bits) ((bits) <= 0 ? 0 : (bits) >= 64 ? ~0ULL : __cpu_to_be64(~0ULL << (64 - ((bits) & 63))))

static __always_inline struct address mask_of(u8 family)
{
    if (family == FAMILY_V4)
        return (struct address){.half = {~0ULL, MASK64(PREFIX_V4 + 32)}};
    return (struct address){.half = {MASK64(PREFIX_V6), MASK64(PREFIX_V6 - 64)}};
}

static __always_inline struct address masked(const struct address *address, struct address mask)
{
    return (struct address){.half = {address->half[0] & mask.half[0], address->half[1] & mask.half[1]}};
}

/* Takes a free slot for a new subnet. Returns the overflow slot if no slot is free. */
static __always_inline u32 claim_slot(const struct context *ctx, struct subnet_key *key)
{
    u32 index;
    struct slot *slot;

    if (free_slots.pop(&index)) {
        ctx->counters->subnet_insert_failed++;
        return OVERFLOW_SLOT;
    }
    slot = slots.lookup(&index);
    if (!slot)
        return OVERFLOW_SLOT;
    slot->key = *key;
    slot->created_ns = precise_now(ctx->skb);
    if (subnets.insert(key, &index)) {
        /* The insertion failed because another CPU inserted the same key first. The table cannot be full, because there
         * are not more slots than table entries. */
        u32 *theirs = subnets.lookup(key);

        free_slots.push(&index, 0);
        if (theirs)
            return *theirs;
        ctx->counters->subnet_insert_failed++;
        return OVERFLOW_SLOT;
    }
    /* This exchange is a full memory barrier, so a reader that sees `live` also sees the key. */
    __sync_lock_test_and_set(&slot->live, 1);
    return index;
}

/* Returns the slot for the endpoint's subnet and `method`. */
static __always_inline u32 slot_of(const struct context *ctx, const struct endpoint *endpoint, enum method method)
{
    struct subnet_key key = {
        .prefix = masked(endpoint->address, mask_of(ctx->packet->family)),
        .interface = ctx->interface,
        .family = ctx->packet->family,
        .side = endpoint->side,
        .method = method,
    };
    u32 *slot = subnets.lookup(&key);

    return slot ? *slot : claim_slot(ctx, &key);
}
