/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hash of the tables that this program implements itself. HASH_KEY is an odd number that is random at each start:
 * without knowing it, nobody can choose flows that collide with a given flow.
 *
 * The halves of an address are mixed one after the other, with a fold in between. On a little-endian machine the last
 * bytes of an address, in which hosts of one network differ, are the high bits of a half, and a product carries high
 * bits nowhere. For the same reason the last word of a key is mixed twice. Mixed once, keys with consecutive ports
 * share few places.
 *
 * In slot_cache.h both halves of a prefix are one word. So an IPv6 prefix can be constructed that collides with an IPv4
 * prefix. Such a collision costs a look-up and changes no count.
 */
#pragma once

#include "config.h"

static __always_inline u64 mix(u64 hash, u64 word)
{
    hash = (hash ^ word) * HASH_KEY;
    return hash ^ hash >> 32;
}
