/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From an address to the slot of its subnet. User space fills the queue of free slots, and is the only one to take a
 * slot back: it deletes the subnet's key, raises the epoch, waits for an interval, and gives the slot away again.
 */
#pragma once

#include "clock.h"
#include "maps.h"

/* The first `bits` bits of 64, in network byte order. */
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

/* A slot for a subnet never seen before, or the overflow slot when none is free. */
static __always_inline u32 claim_slot(struct subnet_key *key, struct __sk_buff *skb,
                                      struct interface_counters *counters)
{
    u32 index;
    struct slot *slot;

    if (free_slots.pop(&index)) {
        counters->subnet_insert_failed++;
        return OVERFLOW_SLOT;
    }
    slot = slots.lookup(&index);
    if (!slot)
        return OVERFLOW_SLOT;
    slot->key = *key;
    slot->created_ns = precise_now(skb);
    if (subnets.insert(key, &index)) {
        /* Another CPU was first; if not, the table is out of entries, which slots alone should prevent. */
        u32 *theirs = subnets.lookup(key);

        free_slots.push(&index, 0);
        if (theirs)
            return *theirs;
        counters->subnet_insert_failed++;
        return OVERFLOW_SLOT;
    }
    /* An exchange is a full barrier: who sees `live` sees the key. */
    __sync_lock_test_and_set(&slot->live, 1);
    return index;
}

static __always_inline u32 slot_of(struct address address, u8 family, u16 interface, u32 side, enum method method,
                                   struct __sk_buff *skb, struct interface_counters *counters)
{
    struct subnet_key key = {
        .prefix = masked(&address, mask_of(family)),
        .interface = interface,
        .family = family,
        .side = side,
        .method = method,
    };
    u32 *slot = subnets.lookup(&key);

    return slot ? *slot : claim_slot(&key, skb, counters);
}
