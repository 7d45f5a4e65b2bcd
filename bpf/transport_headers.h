/* SPDX-License-Identifier: GPL-2.0-only */
/* Parses the fields of TCP, UDP and ICMP headers that the methods for measuring RTTs need. */
#pragma once

#include <linux/tcp.h>
#include <linux/udp.h>

#include "packet.h"
#include "tcp_options.h"

#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO_REQUEST 8
#define ICMPV6_ECHO_REQUEST 128
#define ICMPV6_ECHO_REPLY 129

static __always_inline enum packet_kind parse_tcp(struct cursor *cursor, u64 rest, struct packet *packet)
{
    struct tcphdr *tcp = take(cursor, sizeof(*tcp));

    if (!tcp || tcp->doff < 5)
        return KIND_MALFORMED;

    u64 header = tcp->doff * 4;

    if (header > rest || cursor->at + (header - sizeof(*tcp)) > cursor->end)
        return KIND_MALFORMED;

    packet->source_port = tcp->source;
    packet->destination_port = tcp->dest;
    packet->seq = __be32_to_cpu(tcp->seq);
    packet->ack_seq = __be32_to_cpu(tcp->ack_seq);
    packet->tcp_flags = ((u8 *)tcp)[13];
    packet->window = tcp->window;
#if COPIES
    packet->checksum = tcp->check;
#endif
    packet->headers += header;
    packet->payload = rest - header;
    parse_timestamp(cursor->at, header - sizeof(*tcp), cursor->end, packet);
    return KIND_TCP;
}

/*
 * An incomplete datagram has no RTT. But the addresses of the datagram are known, so the datagram still counts as UDP.
 * If the payload is not in the linear part of the skb, the function reads the payload with bpf_skb_load_bytes().
 * Drivers may put only the headers into the linear part, and put the payload into pages (eth_get_headlen()). `rest` is
 * the number of bytes in the IP packet from the UDP header on. Bytes after the IP packet are padding and are not read.
 */
static __always_inline void parse_udp(struct __sk_buff *skb, const struct cursor *cursor, u64 rest,
                                      struct packet *packet)
{
    const struct udphdr *udp = cursor->at;
    const u64 *payload = (void *)(udp + 1);
    u32 at = packet->headers;

    packet->headers += sizeof(*udp);
    packet->payload = rest > sizeof(*udp) ? rest - sizeof(*udp) : 0;
    if (rest >= sizeof(*udp) + sizeof(*payload) && (void *)(payload + 1) <= cursor->end) {
        packet->source_port = udp->source;
        packet->destination_port = udp->dest;
        packet->udp_head = *payload;
#if COPIES
        packet->checksum = udp->check;
#endif
        return;
    }
    /* The UDP header is first read into udp_head, which serves as a buffer. */
    if (rest < sizeof(*udp) || bpf_skb_load_bytes(skb, at, &packet->udp_head, sizeof(*udp))) {
        packet->udp_head = 0;
        return;
    }
    packet->source_port = ((__be16 *)&packet->udp_head)[0];
    packet->destination_port = ((__be16 *)&packet->udp_head)[1];
#if COPIES
    packet->checksum = ((__be16 *)&packet->udp_head)[3];
#endif
    if (rest < sizeof(*udp) + sizeof(*payload) ||
        bpf_skb_load_bytes(skb, at + sizeof(*udp), &packet->udp_head, sizeof(packet->udp_head)))
        packet->udp_head = 0;
}

static __always_inline void parse_icmp(struct __sk_buff *skb, u64 rest, struct packet *packet)
{
    /* The echo messages of ICMP and ICMPv6 have the same layout (RFC 792, RFC 4443 section 4). */
    struct {
        u8 type;
        u8 code;
        u16 checksum;
        u16 identifier;
        u16 sequence;
    } echo = {};
    bool v4 = packet->family == FAMILY_V4;
    u32 at = packet->headers;

    packet->headers += sizeof(echo);
    packet->payload = rest > sizeof(echo) ? rest - sizeof(echo) : 0;
    /* ICMP is valid only in IPv4, and ICMPv6 only in IPv6. */
    if ((packet->protocol == IPPROTO_ICMP) != v4 || rest < sizeof(echo) ||
        bpf_skb_load_bytes(skb, at, &echo, sizeof(echo)) || echo.code)
        return;
    if (echo.type == (v4 ? ICMP_ECHO_REQUEST : ICMPV6_ECHO_REQUEST))
        packet->echo = ECHO_REQUEST;
    else if (echo.type == (v4 ? ICMP_ECHO_REPLY : ICMPV6_ECHO_REPLY))
        packet->echo = ECHO_REPLY;
    else
        return;
    packet->source_port = echo.identifier;
    packet->destination_port = echo.identifier;
    packet->echo_sequence = echo.sequence;
#if COPIES
    packet->checksum = echo.checksum;
#endif
}
