/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The headers between the start of a packet and its network header: none, or Ethernet, followed by any stack of 802.1Q
 * and 802.1ad tags, PPPoE session (RFC 2516) and MPLS labels (RFC 3032).
 *
 * The kernel or the card removes the outer tag. Such a tag is not in the packet, and needs nothing.
 *
 * The type of a device does not decide whether a packet has an Ethernet header. What a VTI or xfrm interface receives
 * has the one of the interface beneath; what a multipoint GRE device sends and receives has the outer IP header in
 * front; and what is redirected from a PPP to an IFB device has none. So a live packet is read where the kernel has its
 * network header, as the protocol that the kernel takes it for (skb->protocol).
 */
#pragma once

#include <asm/byteorder.h>
#include <linux/if_ether.h>

#include "packet.h"

/* Tags, labels and PPPoE headers together; what has more is not IP to us. */
#define LINK_HEADERS 8

#define ETH_P_QINQ_OLD 0x9100
#define PACKET_LOOPBACK 5 /* linux/if_packet.h, for which there is a stub */
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
 * Whether the kernel's network header begins in the first `bytes` of the packet. The context does not say where it
 * begins. But a helper reads relative to it, up to the end of the linear part: a byte can be read there at an offset
 * that is `bytes` less than the length of the linear part, if and only if the network header begins before `bytes`.
 * The network header begins in the linear part, or at its end.
 */
static __always_inline bool network_begins_before(struct __sk_buff *skb, u64 bytes)
{
    u64 linear = opaque(skb->data_end - skb->data); /* or the compiler negates a pointer */
    u8 byte;

    return linear < bytes || !bpf_skb_load_bytes_relative(skb, linear - bytes, &byte, 1, BPF_HDR_START_NET);
}

/* How many bytes are in front of the kernel's network header, 255 at most: a binary search. */
static __always_inline u64 network_offset(struct __sk_buff *skb, struct packet *packet)
{
    u64 offset = 0;

    for (u64 step = 128; step; step >>= 1)
        offset = forget(packet, network_begins_before(skb, offset + step) ? offset : offset + step);
    return offset;
}

/*
 * Whether the packet has no Ethernet header. The kernel is asked only if that is in doubt: the EtherType is
 * not what the kernel takes the packet for, or the packet begins as an IP header of version 4 or 6 does.
 */
static __always_inline bool lacks_ethernet(struct __sk_buff *skb, const struct ethhdr *ethernet)
{
    if (PACKET_CLOCK || (ethernet->h_proto == skb->protocol && (ethernet->h_dest[0] & 0xd0) != 0x40))
        return false;
    return network_begins_before(skb, ETH_HLEN);
}

/*
 * Whether the packet is the kernel's own copy of a broadcast or multicast packet that it transmits, for sockets of this
 * host (dev_loopback_xmit()). It has no Ethernet header, was not on the wire, and the device does not count it.
 */
static __always_inline bool is_own_copy(const struct __sk_buff *skb)
{
    return !PACKET_CLOCK && skb->pkt_type == PACKET_LOOPBACK;
}

/* How many bytes are in front of a packet that has no Ethernet header. */
static __always_inline u64 start_of(struct __sk_buff *skb, struct packet *packet)
{
    return PACKET_CLOCK || network_begins_before(skb, 1) ? 0 : network_offset(skb, packet);
}

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
