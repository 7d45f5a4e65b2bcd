/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the IPv4 address inside an IPv6 address. An endpoint with such an address counts for the subnet or the named
 * network of the IPv4 address. Without this rule, one /48 would contain all IPv4 hosts that are reached through a
 * NAT64. The keys of flows and transactions contain the addresses of the packet, so no RTT is matched differently.
 *
 *   NAT64   RFC 6052 section 2.2, for each prefix of EACH_NAT64
 *   6to4    2002::/16, the 32 bits after the prefix (RFC 3056 section 2)
 *   Teredo  2001::/32, the last 32 bits, inverted: the external address of the client's NAT (RFC 4380 section 4)
 *   mapped  ::ffff:0:0/96, the last 32 bits (RFC 4291 section 2.5.5.2)
 */
#pragma once

#include "packet.h"

/* With `--embedded-ipv4 none`, no code calls the functions for NAT64. */
#define MAY_BE_UNUSED __attribute__((unused))

/*
 * Returns whether an IPv6 address has a NAT64 prefix. `first` and `second` are the halves of the address, `high` and
 * `low` are the halves of the prefix. If the prefix is shorter than 96 bits, bits 64 to 71 of the address must be 0.
 */
static __always_inline MAY_BE_UNUSED bool has_nat64_prefix(u64 first, u64 second, u64 high, u64 low, u32 length)
{
    if (length == 96)
        return first == high && second >> 32 == low >> 32;
    return (first ^ high) >> (64 - length) == 0 && second >> 56 == 0;
}

/* Returns the 32 bits after the prefix. If the prefix is shorter than 96 bits, these bits do not include bits 64 to 71.
 */
static __always_inline MAY_BE_UNUSED u32 nat64_address(u64 first, u64 second, u32 length)
{
    if (length == 96)
        return second;
    second <<= 8;
    return (length == 64 ? second : first << length | second >> (64 - length)) >> 32;
}

/*
 * Returns whether `address` contains an IPv4 address. If so, changes `address` to the IPv4-mapped address. The packet
 * must be an IPv6 packet.
 */
static __always_inline bool extract_ipv4(struct address *address)
{
    u64 first = __be64_to_cpu(address->half[0]), second = __be64_to_cpu(address->half[1]);
    u32 ipv4;

#define PREFIX(high, low, length)                           \
    if (has_nat64_prefix(first, second, high, low, length)) \
        ipv4 = nat64_address(first, second, length);        \
    else
    EACH_NAT64(PREFIX)
#undef PREFIX
    if (EMBEDDED_6TO4 && first >> 48 == 0x2002)
        ipv4 = first >> 16;
    else if (EMBEDDED_TEREDO && first >> 32 == 0x20010000)
        ipv4 = ~second;
    else if (EMBEDDED_MAPPED && !first && second >> 32 == 0xffff)
        ipv4 = second;
    else
        return false;
    *address = (struct address){.half = {0, __cpu_to_be64(0xffff00000000ULL | ipv4)}};
    return true;
}
