/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * From bytes to the few facts that the rest of the program needs: IPv4 with options, IPv6 with extension headers,
 * TCP with its timestamp option wherever it stands.
 */
#pragma once

#include <asm/byteorder.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "link.h"
#include "maps.h"

/* Enough for any chain of extension headers met in practice; a longer one is malformed to us. */
#define EXTENSION_HEADERS 8
#define MAX_EXTENSIONS 2048
/* Where the linear part of an skb ends inside the headers, this much is pulled into it. */
#define HEADER_BYTES 256

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

#define TCPOPT_EOL 0
#define TCPOPT_NOP 1
#define TCPOPT_TIMESTAMP 8
#define TCPOLEN_TIMESTAMP 10
#define MAX_OPTIONS 40
#define OPTIONS_BEFORE_TIMESTAMP (MAX_OPTIONS - TCPOLEN_TIMESTAMP)

struct packet {
    struct address source;
    struct address destination;
    u16 source_port;
    u16 destination_port;
    u32 headers; /* bytes in front of the payload, link header included */
    u32 payload; /* bytes of TCP payload */
    u32 seq;     /* TCP */
    u32 ack_seq; /* TCP */
    u32 tsval;
    u32 tsecr;
    u32 icmp_identifier; /* identifier and sequence number, as they stand there */
    u64 udp_head;        /* the first 8 bytes of UDP payload, as they stand there; 0 if there are fewer */
    bool has_timestamp;
    u8 tcp_flags;
    u8 icmp_type;
    u8 family;
    u8 protocol;
    u8 ecn;
};

struct cursor {
    void *at;
    void *end;
};

/* The header of `size` bytes at the cursor, or NULL if the packet ends before it does. */
static __always_inline void *take(struct cursor *cursor, u64 size)
{
    void *header = cursor->at;

    if (header + size > cursor->end)
        return 0;
    cursor->at = header + size;
    return header;
}

static __always_inline struct address map_v4(__be32 address)
{
    return (struct address){.half = {0, __cpu_to_be64(0x0000ffff00000000ULL | __be32_to_cpu(address))}};
}

static __always_inline enum packet_kind parse_ipv4(struct cursor *cursor, u32 limit, struct packet *packet, u32 *rest)
{
    struct iphdr *ip = take(cursor, sizeof(*ip));

    if (!ip || ip->version != 4 || ip->ihl < 5)
        return KIND_MALFORMED;

    u32 header = ip->ihl * 4;
    /* 0: an aggregate of more than 64 kB, too long for the field (BIG TCP); the kernel's iph_totlen() does the same. */
    u32 total = __be16_to_cpu(ip->tot_len) ?: limit;

    if (total < header || total > limit || !take(cursor, header - sizeof(*ip)))
        return KIND_MALFORMED;

    packet->family = FAMILY_V4;
    packet->source = map_v4(ip->saddr);
    packet->destination = map_v4(ip->daddr);
    packet->protocol = ip->protocol;
    packet->ecn = ip->tos & 3;
    packet->headers += header;
    *rest = total - header;
    /* More fragments, or not the first one: the transport header is elsewhere or its payload is not whole. */
    return ip->frag_off & __cpu_to_be16(0x3fff) ? KIND_FRAGMENT : KIND_OTHER;
}

/*
 * Goes past the extension headers that follow the IPv6 header, counting their bytes off `rest`. It reads them by
 * offset: with a pointer the verifier would follow every combination of lengths on its own.
 */
static __always_inline enum packet_kind skip_extensions(struct __sk_buff *skb, struct packet *packet, u32 *rest)
{
    u32 skipped = 0;

    for (int i = 0; i <= EXTENSION_HEADERS; i++) {
        struct ipv6_opt_hdr extension;

        switch (packet->protocol) {
        case IPPROTO_FRAGMENT:
            return KIND_FRAGMENT;
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

        /* Lengths count 8 bytes beyond the first 8 (RFC 8200 4.2), but for AH 4 bytes beyond the first 8 (RFC 4302). */
        u32 size = packet->protocol == IPPROTO_AH ? (extension.hdrlen + 2) * 4 : (extension.hdrlen + 1) * 8;

        skipped += size;
        if (size > *rest || skipped > MAX_EXTENSIONS)
            return KIND_MALFORMED;
        packet->protocol = extension.nexthdr;
        packet->headers += size;
        *rest -= size;
    }
    return KIND_MALFORMED;
}

static __always_inline enum packet_kind parse_ipv6(struct __sk_buff *skb, struct cursor *cursor, u32 limit,
                                                   struct packet *packet, u32 *rest)
{
    struct ipv6hdr *ip = take(cursor, sizeof(*ip));

    if (!ip || ip->version != 6)
        return KIND_MALFORMED;

    /* 0: a jumbogram or an aggregate of more than 64 kB (RFC 2675). */
    u32 left = __be16_to_cpu(ip->payload_len) ?: limit - sizeof(*ip);

    if (left + sizeof(*ip) > limit)
        return KIND_MALFORMED;

    packet->family = FAMILY_V6;
    packet->source = *(struct address *)&ip->saddr;
    packet->destination = *(struct address *)&ip->daddr;
    packet->protocol = ip->nexthdr;
    packet->ecn = (ip->flow_lbl[0] >> 4) & 3;
    packet->headers += sizeof(*ip);
    *rest = left;

    enum packet_kind kind = skip_extensions(skb, packet, rest);
    u64 extensions = opaque(left - *rest);

    /* Chains longer than MAX_EXTENSIONS don't get here; the bound is for the verifier. */
    return extensions <= MAX_EXTENSIONS && take(cursor, extensions) ? kind : KIND_MALFORMED;
}

/*
 * Finds the timestamp option (RFC 7323 section 3.2). A broken list ends the search, as it does in the kernel's
 * tcp_parse_options(): the segment then has no timestamp.
 *
 * It goes byte by byte, counting off those of an option that isn't ours, rather than jump from option to option: with
 * an offset it knows at each step, the verifier needs hundreds of instructions, not a million. As a rule the timestamp
 * stands behind two NOPs, at the third byte.
 */
static __always_inline void parse_timestamp(u8 *options, u32 length, void *end, struct packet *packet)
{
    u8 skip = 0;

    for (u32 i = 0; i <= OPTIONS_BEFORE_TIMESTAMP; i++) {
        __be32 *values = (void *)options + i + 2;

        /* No room for a timestamp any more. */
        if (i + TCPOLEN_TIMESTAMP > length || (void *)options + i + TCPOLEN_TIMESTAMP > end)
            return;
        if (skip) {
            skip--;
            continue;
        }
        if (options[i] == TCPOPT_NOP)
            continue;
        if (options[i] == TCPOPT_EOL || options[i + 1] == 1)
            return;
        if (options[i] == TCPOPT_TIMESTAMP && options[i + 1] == TCPOLEN_TIMESTAMP) {
            packet->tsval = __be32_to_cpu(values[0]);
            packet->tsecr = __be32_to_cpu(values[1]);
            packet->has_timestamp = true;
            return;
        }
        skip = options[i + 1] - 1; /* a length of 0 is broken too, and skips to the end */
    }
}

static __always_inline enum packet_kind parse_tcp(struct cursor *cursor, u32 rest, struct packet *packet)
{
    struct tcphdr *tcp = take(cursor, sizeof(*tcp));

    if (!tcp || tcp->doff < 5)
        return KIND_MALFORMED;

    u32 header = tcp->doff * 4;

    if (header > rest || cursor->at + (header - sizeof(*tcp)) > cursor->end)
        return KIND_MALFORMED;

    packet->source_port = tcp->source;
    packet->destination_port = tcp->dest;
    packet->seq = __be32_to_cpu(tcp->seq);
    packet->ack_seq = __be32_to_cpu(tcp->ack_seq);
    packet->tcp_flags = ((u8 *)tcp)[13];
    packet->headers += header;
    packet->payload = rest - header;
    parse_timestamp(cursor->at, header - sizeof(*tcp), cursor->end, packet);
    return KIND_TCP;
}

/* What is cut short has nothing to measure, but its addresses are known, so it counts as what it is. */
static __always_inline void parse_udp(struct cursor *cursor, struct packet *packet)
{
    struct udphdr *udp = take(cursor, sizeof(*udp));
    u64 *head = udp ? take(cursor, sizeof(*head)) : 0;

    packet->headers += sizeof(*udp);
    if (!udp)
        return;
    packet->source_port = udp->source;
    packet->destination_port = udp->dest;
    packet->udp_head = head ? *head : 0;
}

static __always_inline void parse_icmp(struct cursor *cursor, struct packet *packet)
{
    /* ICMP and ICMPv6 echo are alike (RFC 792, RFC 4443 section 4): type, code, checksum, identifier, sequence. */
    struct {
        u8 type;
        u8 code;
        u16 checksum;
        u32 identifier;
    } *echo = take(cursor, sizeof(*echo));

    if (!echo || echo->code)
        return;
    packet->icmp_type = echo->type;
    packet->icmp_identifier = echo->identifier;
}

/*
 * Bytes on the wire, link header included: wire_len counts the headers of all segments of an skb on its way out
 * (qdisc_pkt_len_init()), and what a capture left off; but on its way in it lacks the link header.
 */
static __always_inline u32 wire_length(struct __sk_buff *skb)
{
    return skb->wire_len > skb->len ? skb->wire_len : skb->len;
}

static __always_inline enum packet_kind parse_linear(struct __sk_buff *skb, u32 link_header, struct packet *packet)
{
    struct cursor cursor = {.at = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
    u8 version;

    if (link_header) {
        struct ethhdr *ethernet = take(&cursor, sizeof(*ethernet));

        if (!ethernet)
            return KIND_MALFORMED;
        if (ethernet->h_proto == __cpu_to_be16(ETH_P_IP)) {
            version = 4;
        } else if (ethernet->h_proto == __cpu_to_be16(ETH_P_IPV6)) {
            version = 6;
        } else {
            enum packet_kind kind = skip_tags(skb, __be16_to_cpu(ethernet->h_proto), &link_header, &version);

            u64 tags = opaque(link_header - sizeof(*ethernet));

            if (kind != KIND_OTHER)
                return kind;
            /* The bound is for the verifier. */
            if (tags > MAX_TAG_BYTES || !take(&cursor, tags))
                return KIND_MALFORMED;
        }
    } else {
        struct iphdr *first = cursor.at;

        if (cursor.at + 1 > cursor.end)
            return KIND_MALFORMED;
        version = first->version;
        if (version != 4 && version != 6)
            return KIND_NON_IP;
    }

    packet->headers = link_header;

    u32 limit = wire_length(skb) - link_header, rest = 0;
    enum packet_kind kind =
        version == 4 ? parse_ipv4(&cursor, limit, packet, &rest) : parse_ipv6(skb, &cursor, limit, packet, &rest);

    if (kind != KIND_OTHER)
        return kind;
    switch (packet->protocol) {
    case IPPROTO_TCP:
        return parse_tcp(&cursor, rest, packet);
    case IPPROTO_UDP:
        parse_udp(&cursor, packet);
        return KIND_UDP;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        parse_icmp(&cursor, packet);
        return KIND_ICMP;
    default:
        return KIND_OTHER;
    }
}

/*
 * Fills in `packet`; what isn't a whole IP packet leaves its addresses empty.
 *
 * As a rule the headers, and often nothing else, are in the linear part of an skb, where pointers reach. If not, they
 * are pulled there, once, which moves bytes but changes none.
 */
static __always_inline enum packet_kind parse_packet(struct __sk_buff *skb, u32 link_header, struct packet *packet)
{
    enum packet_kind kind = KIND_MALFORMED;

#pragma clang loop unroll(disable)
    for (int i = 0; i < 2; i++) {
        kind = parse_linear(skb, link_header, packet);
        if (kind != KIND_MALFORMED || skb->data_end - skb->data >= skb->len)
            break;
        if (bpf_skb_pull_data(skb, skb->len < HEADER_BYTES ? skb->len : HEADER_BYTES))
            break;
    }
    return kind;
}
