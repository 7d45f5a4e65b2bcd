/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Hashes for the tables of our own. HASH_KEY, a random odd number, is another at each start: who doesn't know it can't
 * tell what shares a place with a flow of somebody else.
 *
 * Each half of an address is mixed by itself, and folded before the next: its last bytes, in which those of one network
 * differ, are the high ones here, which a product carries nowhere. For the same reason, what comes last is mixed twice:
 * once, and of some keys those with ports in a row share few places. (In slot_cache.h both halves of a prefix are one
 * word, so an IPv6 prefix can be told that shares a place with one of IPv4: that costs a look-up, and no count.)
 */
#pragma once

#include "config.h"

static __always_inline u64 mix(u64 hash, u64 word)
{
    hash = (hash ^ word) * HASH_KEY;
    return hash ^ hash >> 32;
}
