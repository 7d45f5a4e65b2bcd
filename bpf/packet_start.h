/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the start of a packet: the Ethernet header or, if the packet has no Ethernet header, the network header.
 * link_headers.h parses the headers between the Ethernet header and the network header.
 *
 * The kernel or the network card removes the outer VLAN tag from the packet, so the program does not see this tag.
 *
 * The program cannot infer from the type of a device whether a packet has an Ethernet header. A packet that a VTI or
 * xfrm interface receives has the Ethernet header of the underlying interface. A packet of a multipoint GRE device
 * begins with the outer IP header. A packet that is redirected from a PPP device to an IFB device has no Ethernet
 * header. If a packet of an interface has no Ethernet header, the program starts to read at the kernel's network
 * header, and takes the protocol from skb->protocol.
 */
#pragma once

#include <asm/byteorder.h>
#include <linux/if_ether.h>

#include "packet.h"

#define PACKET_LOOPBACK 5 /* copied from linux/if_packet.h, because stubs/ has an empty file instead */

/*
 * Returns whether the kernel's network header begins in the first `bytes` bytes of the packet. struct __sk_buff does
 * not have the offset of the network header. But a BPF helper can read bytes relative to the network header, up to the
 * end of the linear part. The network header begins in the linear part, or at the end of the linear part. So the helper
 * can read the byte at the relative offset (length of the linear part - bytes) if and only if the network header begins
 * before `bytes`.
 */
static __always_inline bool network_begins_before(struct __sk_buff *skb, u64 bytes)
{
    u64 linear = skb->data_end - skb->data;
    u8 byte;

    barrier_var(linear); /* without the barrier, the compiler negates a pointer */

    return linear < bytes || !bpf_skb_load_bytes_relative(skb, linear - bytes, &byte, 1, BPF_HDR_START_NET);
}

/* Returns the number of bytes before the kernel's network header, at most 255. Finds this number by binary search. */
static __always_inline u64 network_offset(struct __sk_buff *skb, struct packet *packet)
{
    u64 offset = 0;

    for (u64 step = 128; step; step >>= 1)
        offset = hide_from_verifier(packet, network_begins_before(skb, offset + step) ? offset : offset + step);
    return offset;
}

/*
 * Returns whether the packet has no Ethernet header. The program searches for the kernel's network header in two cases:
 * if the EtherType differs from skb->protocol, or if the packet begins like an IP header of version 4 or 6.
 */
static __always_inline bool lacks_ethernet(struct __sk_buff *skb, const struct ethhdr *ethernet)
{
    if (PACKET_CLOCK || (ethernet->h_proto == skb->protocol && (ethernet->h_dest[0] & 0xd0) != 0x40))
        return false;
    return network_begins_before(skb, ETH_HLEN);
}

/*
 * Returns whether the packet is a copy of a broadcast or multicast packet that this host sent. The kernel makes such a
 * copy for the sockets of this host (dev_loopback_xmit()). The copy has no Ethernet header and was not on the wire. The
 * statistics of the device do not include copies of this kind.
 */
static __always_inline bool is_own_copy(const struct __sk_buff *skb)
{
    return !PACKET_CLOCK && skb->pkt_type == PACKET_LOOPBACK;
}

/* Returns the offset of the network header, for a packet without an Ethernet header. */
static __always_inline u64 find_start_offset(struct __sk_buff *skb, struct packet *packet)
{
    return PACKET_CLOCK || network_begins_before(skb, 1) ? 0 : network_offset(skb, packet);
}
