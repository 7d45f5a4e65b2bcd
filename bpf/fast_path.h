/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The fast path of the parser handles most packets. A packet of the fast path is not a fragment. The packet has an
 * Ethernet header, an IPv4 header without options, and then either a UDP header or a TCP header. In the TCP header, the
 * timestamp option follows two NOP options. Each field has a fixed offset, so the parser compares only one or two
 * offsets with the packet's end, and reads each field with one load. The slow path in parse.h parses header by header
 * and handles all other packets. The fast path takes half as many instructions as the slow path.
 */
#pragma once

#include "packet_start.h"
#include "ip_headers.h"
#include "packet.h"
#include "tcp_options.h"
#include "transport_headers.h"

#define FAST_VERSION_IHL 0x45 /* IP version 4, and a header length of 5 words: no options */
#define FAST_DOFF 8           /* header length in words of 4 bytes: the fixed TCP header, and 12 bytes of options */

/*
 * The EtherType of IPv4, and the first byte of the IPv4 header after the EtherType. FAST_TYPE_MASK excludes the TOS
 * byte.
 */
#define FAST_TYPE_AND_VERSION __cpu_to_be32((u32)ETH_P_IP << 16 | FAST_VERSION_IHL << 8)
#define FAST_TYPE_MASK __cpu_to_be32(0xffffff00)

/* Number of bytes from the start of the packet to the last byte that the fast path reads. */
#define FAST_UDP_BYTES (ETH_HLEN + sizeof(struct iphdr) + sizeof(struct udphdr) + sizeof(u64))
#define FAST_TCP_BYTES (ETH_HLEN + sizeof(struct iphdr) + FAST_DOFF * 4)

/* Fills in `packet` and returns its kind, or KINDS if the packet needs the slow path. */
static __always_inline u64 parse_fast_path(struct __sk_buff *skb, struct packet *packet)
{
    void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
    struct iphdr *ip = data + ETH_HLEN;
    struct udphdr *udp = (void *)(ip + 1);
    struct tcphdr *tcp = (void *)(ip + 1);
    __be32 *options = (void *)(tcp + 1);
    __be32 *type_and_version = data + ETH_HLEN - sizeof(__be16);

    /* A packet that begins like an IPv4 header may have no Ethernet header: see lacks_ethernet(). The first byte of a
     * unicast MAC address is even, and FAST_VERSION_IHL is odd. So no unicast frame begins with FAST_VERSION_IHL. */
    if (data + FAST_UDP_BYTES > end || *(u8 *)data == FAST_VERSION_IHL ||
        (*type_and_version & FAST_TYPE_MASK) != FAST_TYPE_AND_VERSION || ip->frag_off & __cpu_to_be16(0x3fff))
        return KINDS;

    u64 total = __be16_to_cpu(ip->tot_len), protocol = ip->protocol, kind;

    if (total + ETH_HLEN > wire_length(skb))
        return KINDS;
    if (protocol == IPPROTO_TCP) {
        if (total + ETH_HLEN < FAST_TCP_BYTES || data + FAST_TCP_BYTES > end ||
            (((u8 *)tcp)[12] & 0xf0) != FAST_DOFF << 4 || options[0] != NOP_NOP_TIMESTAMP)
            return KINDS;
        packet->headers = FAST_TCP_BYTES;
        packet->payload = total + ETH_HLEN - FAST_TCP_BYTES;
        packet->seq = __be32_to_cpu(tcp->seq);
        packet->ack_seq = __be32_to_cpu(tcp->ack_seq);
        packet->tcp_flags = ((u8 *)tcp)[13];
        packet->window = tcp->window;
#if COPIES
        packet->identification = ip->id;
        packet->checksum = tcp->check;
#endif
        packet->tsval = __be32_to_cpu(options[1]);
        packet->tsecr = __be32_to_cpu(options[2]);
        packet->has_timestamp = true;
        kind = KIND_TCP;
    } else if (protocol == IPPROTO_UDP && total + ETH_HLEN >= FAST_UDP_BYTES) {
        packet->headers = FAST_UDP_BYTES - sizeof(packet->udp_head);
        packet->payload = total + ETH_HLEN - packet->headers;
        packet->udp_head = *(u64 *)(udp + 1);
#if COPIES
        packet->identification = ip->id;
        packet->checksum = udp->check;
#endif
        packet->tcp_flags = 0;
        packet->has_timestamp = false;
        kind = KIND_UDP;
    } else {
        return KINDS;
    }
    packet->source_port = udp->source;
    packet->destination_port = udp->dest;
    packet->family = FAMILY_V4;
    packet->protocol = protocol;
    packet->source = map_v4(ip->saddr);
    packet->destination = map_v4(ip->daddr);
    packet->ecn = ip->tos & 3;
    return kind;
}
