/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parses IPv4 with options, and IPv6 with extension headers. The first fragment of a packet contains the transport
 * header, so the parser handles the first fragment like a whole packet. All other fragments have the kind
 * KIND_FRAGMENT.
 */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "packet.h"

#define IPV4_MORE_FRAGMENTS __cpu_to_be16(0x2000)
#define IPV4_FRAGMENT_OFFSET __cpu_to_be16(0x1fff)
#define IPV6_MORE_FRAGMENTS __cpu_to_be16(0x0001)
#define IPV6_FRAGMENT_OFFSET __cpu_to_be16(0xfff8)
#define IPV6_FRAGMENT_BYTES 8

/*
 * The maximum number of extension headers of a packet, and the maximum total length of these headers in bytes. Real
 * packets have fewer and shorter extension headers. A packet that exceeds one of the two limits counts as malformed.
 */
#define EXTENSION_HEADERS 8
#define MAX_EXTENSIONS 2048

/* Number of bits by which a 32-bit number is shifted to be in the last four bytes of a 64-bit word in memory. */
#define LAST_BYTES (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? 32 : 0)

static __always_inline struct address map_v4(__be32 address)
{
    return (struct address){.half = {0, __cpu_to_be64(0x0000ffff00000000ULL) | (u64)address << LAST_BYTES}};
}

static __always_inline enum packet_kind parse_ipv4(struct cursor *cursor, u64 limit, struct packet *packet, u64 *rest)
{
    struct iphdr *ip = take(cursor, sizeof(*ip));

    if (!ip || ip->version != 4 || ip->ihl < 5)
        return KIND_MALFORMED;

    u64 header = ip->ihl * 4;
    /* A length of 0 means an aggregate of more than 64 kB, because the field cannot hold such a length (BIG TCP). The
     * kernel's iph_totlen() handles a length of 0 in the same way. */
    u64 total = __be16_to_cpu(ip->tot_len) ?: limit;

    if (total < header || total > limit || !take(cursor, header - sizeof(*ip)))
        return KIND_MALFORMED;

    packet->family = FAMILY_V4;
    packet->source = map_v4(ip->saddr);
    packet->destination = map_v4(ip->daddr);
    packet->protocol = ip->protocol;
    packet->ecn = ip->tos & 3;
#if COPIES
    packet->identification = ip->id;
#endif
    packet->headers += header;
    *rest = total - header;
    packet->more_fragments = ip->frag_off & IPV4_MORE_FRAGMENTS;
    return ip->frag_off & IPV4_FRAGMENT_OFFSET ? KIND_FRAGMENT : KIND_OTHER;
}

/*
 * Skips the extension headers that follow the IPv6 header, and subtracts their length from `rest`. A packet that is not
 * fragmented may also have a fragment header (RFC 6946). The function reads with bpf_skb_load_bytes(), for the same
 * reason as skip_link_headers().
 */
static __always_inline enum packet_kind skip_extensions(struct __sk_buff *skb, struct packet *packet, u64 *rest)
{
    for (int i = 0; i <= EXTENSION_HEADERS; i++) {
        struct {
            struct ipv6_opt_hdr common;
            __be16 fragment;
        } extension;

        switch (packet->protocol) {
        case IPPROTO_FRAGMENT:
        case IPPROTO_HOPOPTS:
        case IPPROTO_ROUTING:
        case IPPROTO_DSTOPTS:
        case IPPROTO_MH:
        case IPPROTO_AH:
            break;
        default:
            return KIND_OTHER;
        }
        if (bpf_skb_load_bytes(skb, packet->headers, &extension, sizeof(extension)))
            return KIND_MALFORMED;

        /* The length field contains the header length in units of 8 bytes, without the first 8 bytes (RFC 8200 section
         * 4.2). In AH, the length field contains the header length in units of 4 bytes, without the first 8 bytes (RFC
         * 4302). */
        u32 size =
            packet->protocol == IPPROTO_AH ? (extension.common.hdrlen + 2) * 4 : (extension.common.hdrlen + 1) * 8;

        if (packet->protocol == IPPROTO_FRAGMENT) {
            if (extension.fragment & IPV6_FRAGMENT_OFFSET)
                return KIND_FRAGMENT;
            packet->more_fragments |= extension.fragment & IPV6_MORE_FRAGMENTS;
            size = IPV6_FRAGMENT_BYTES;
        }
        if (size > *rest)
            return KIND_MALFORMED;
        packet->protocol = extension.common.nexthdr;
        packet->headers = hide_from_verifier(packet, packet->headers + size);
        *rest = hide_from_verifier(packet, *rest - size);
    }
    return KIND_MALFORMED;
}

static __always_inline enum packet_kind parse_ipv6(struct __sk_buff *skb, struct cursor *cursor, u64 limit,
                                                   struct packet *packet, u64 *rest)
{
    struct ipv6hdr *ip = take(cursor, sizeof(*ip));

    if (!ip || ip->version != 6)
        return KIND_MALFORMED;

    /* A length of 0 means a jumbogram or an aggregate of more than 64 kB (RFC 2675). */
    u64 left = __be16_to_cpu(ip->payload_len) ?: limit - sizeof(*ip);
    const u64 *addresses = (void *)&ip->saddr;

    if (left + sizeof(*ip) > limit)
        return KIND_MALFORMED;

    packet->family = FAMILY_V6;
    packet->source = (struct address){.half = {addresses[0], addresses[1]}};
    packet->destination = (struct address){.half = {addresses[2], addresses[3]}};
    packet->protocol = ip->nexthdr;
    packet->ecn = (ip->flow_lbl[0] >> 4) & 3;
    packet->headers += sizeof(*ip);
    *rest = left;

    enum packet_kind kind = skip_extensions(skb, packet, rest);

    return left - *rest > MAX_EXTENSIONS ? KIND_MALFORMED : kind;
}
