/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What stands between the start of a packet and its network header: nothing, or Ethernet, and behind it any stack of
 * 802.1Q and 802.1ad tags, PPPoE session (RFC 2516) and MPLS labels (RFC 3032).
 *
 * A tag that the kernel or the card took off, as they do with the outer one, isn't in the packet, and needs nothing.
 */
#pragma once

#include <asm/byteorder.h>
#include <linux/if_ether.h>

#include "packet.h"

/* Tags, labels and PPPoE headers together; what has more is not IP to us. */
#define LINK_HEADERS 8

#define ETH_P_QINQ_OLD 0x9100
#define PPP_IP 0x0021
#define PPP_IPV6 0x0057
#define PPP_MPLS 0x0281
#define MPLS_BOTTOM_OF_STACK 0x100

struct tag {
    __be16 control;
    __be16 protocol;
};

struct pppoe {
    u8 version_type;
    u8 code;
    __be16 session;
    __be16 length;
    __be16 protocol;
};

/*
 * Goes past all that follows an Ethernet header which ends after `bytes`, and whose `protocol` is given: then `bytes`
 * are in front of the network header, `version` is that of IP there, and the packet ends at `end`, or before.
 * KIND_OTHER if it is IP, else KIND_NON_IP or KIND_MALFORMED (cut short). Reads by an offset, of which the verifier
 * forgets what it was: with one that it knows, or a pointer, it would follow all that comes after once for every stack
 * of headers there can be.
 */
static __always_inline enum packet_kind skip_tags(struct __sk_buff *skb, struct packet *packet, u16 protocol,
                                                  u64 *bytes, u64 *end, u64 *version)
{
    u64 offset = *bytes;

    for (int i = 0; i <= LINK_HEADERS; i++) {
        union {
            struct tag tag;
            struct pppoe pppoe;
            __be32 label;
        } header = {};
        u64 last;
        u8 next;

        switch (protocol) {
        case ETH_P_IP:
            *version = 4;
            *bytes = offset;
            return KIND_OTHER;
        case ETH_P_IPV6:
            *version = 6;
            *bytes = offset;
            return KIND_OTHER;
        case ETH_P_8021Q:
        case ETH_P_8021AD:
        case ETH_P_QINQ_OLD:
            if (bpf_skb_load_bytes(skb, offset, &header.tag, sizeof(header.tag)))
                return KIND_MALFORMED;
            protocol = __be16_to_cpu(header.tag.protocol);
            offset += sizeof(header.tag);
            break;
        case ETH_P_PPP_SES:
            if (bpf_skb_load_bytes(skb, offset, &header.pppoe, sizeof(header.pppoe)))
                return KIND_MALFORMED;
            if (header.pppoe.protocol == __cpu_to_be16(PPP_IP))
                protocol = ETH_P_IP;
            else if (header.pppoe.protocol == __cpu_to_be16(PPP_IPV6))
                protocol = ETH_P_IPV6;
            else if (header.pppoe.protocol == __cpu_to_be16(PPP_MPLS))
                protocol = ETH_P_MPLS_UC;
            else
                return KIND_NON_IP;
            /* It counts the bytes that follow it, the PPP protocol too; what is behind them is padding. An aggregate
             * has the length of one of its packets. */
            offset += sizeof(header.pppoe);
            last = offset - sizeof(header.pppoe.protocol) + __be16_to_cpu(header.pppoe.length);
            if (last < *end && !skb->gso_segs)
                *end = last;
            break;
        case ETH_P_MPLS_UC:
        case ETH_P_MPLS_MC:
            if (bpf_skb_load_bytes(skb, offset, &header.label, sizeof(header.label)))
                return KIND_MALFORMED;
            offset += sizeof(header.label);
            if (!(header.label & __cpu_to_be32(MPLS_BOTTOM_OF_STACK)))
                break;
            /* Labels don't say what they carry: the first nibble of IP is its version (RFC 4928). */
            if (bpf_skb_load_bytes(skb, offset, &next, sizeof(next)))
                return KIND_MALFORMED;
            protocol = next >> 4 == 4 ? ETH_P_IP : next >> 4 == 6 ? ETH_P_IPV6 : 0;
            break;
        default:
            return KIND_NON_IP;
        }
        /* What a header did is forgotten, so that the verifier finds one way on from here, not one for each that may
         * have been: half of all it has to look at. */
        offset = forget(packet, offset);
        *end = forget(packet, *end);
    }
    return KIND_NON_IP;
}
