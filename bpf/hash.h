/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The hash function for the tables that this program implements itself. HASH_KEY is an odd random number, which the
 * agent chooses at each start. Somebody who does not know HASH_KEY cannot construct flows that collide with a given
 * flow.
 *
 * The hash takes one half of an address after the other. After each half, the high bits of the hash are folded into the
 * low bits of the hash. The addresses of hosts in one network differ in the last bytes. On a little-endian machine, the
 * last bytes are the high bits of a half, and a multiplication never moves high bits to lower places. Only the next
 * multiplication spreads the folded bits over the whole hash. So a word of 0 follows the last word of a key. Without
 * the word of 0, keys with consecutive ports would share a small part of the table.
 *
 * The slot cache may combine both halves of a prefix into one word. So somebody can construct an IPv6 prefix that
 * collides with an IPv4 prefix. Such a collision causes one more look-up, but does not change any count.
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
