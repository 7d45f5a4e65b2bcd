/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hash of the tables that this program implements itself. HASH_KEY is an odd number that is chosen at random at
 * each start. Without this number nobody can construct flows that collide with a given flow.
 *
 * The two halves of an address are mixed one after the other. In between, the high bits of the hash are folded into its
 * low bits. Hosts of one network differ in the last bytes of their addresses. On a little-endian machine these bytes
 * are the high bits of a half, and a multiplication never moves high bits to lower places. For the same reason a word
 * of 0 is mixed in after the last word of a key. Without this word, keys with consecutive ports would share a small
 * part of the table.
 *
 * In slot_cache.h both halves of a prefix may be combined into one word. So it is possible to construct an IPv6 prefix
 * that collides with an IPv4 prefix. Such a collision causes one more look-up, but does not change any count.
 */
#pragma once

#include "config.h"

static __always_inline u64 mix(u64 hash, u64 word)
{
    hash = (hash ^ word) * HASH_KEY;
    return hash ^ hash >> 32;
}

/* Returns the number of the highest bit that is 1. The value must not be 0. */
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
