/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Where a packet begins: with an Ethernet header, or with its network header. link_headers.h has what may be between
 * the two.
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

#define PACKET_LOOPBACK 5 /* linux/if_packet.h, for which there is a stub */

/*
 * Whether the kernel's network header begins in the first `bytes` of the packet. The context does not say where it
 * begins. But a helper reads relative to it, up to the end of the linear part: a byte can be read there at an offset
 * that is `bytes` less than the length of the linear part, if and only if the network header begins before `bytes`.
 * The network header begins in the linear part, or at its end.
 */
static __always_inline bool network_begins_before(struct __sk_buff *skb, u64 bytes)
{
    u64 linear = skb->data_end - skb->data;
    u8 byte;

    barrier_var(linear); /* or the compiler negates a pointer */

    return linear < bytes || !bpf_skb_load_bytes_relative(skb, linear - bytes, &byte, 1, BPF_HDR_START_NET);
}

/* How many bytes are in front of the kernel's network header, 255 at most: a binary search. */
static __always_inline u64 network_offset(struct __sk_buff *skb, struct packet *packet)
{
    u64 offset = 0;

    for (u64 step = 128; step; step >>= 1)
        offset = hide_from_verifier(packet, network_begins_before(skb, offset + step) ? offset : offset + step);
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
static __always_inline u64 find_start_offset(struct __sk_buff *skb, struct packet *packet)
{
    return PACKET_CLOCK || network_begins_before(skb, 1) ? 0 : network_offset(skb, packet);
}
