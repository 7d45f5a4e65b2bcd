/* SPDX-License-Identifier: GPL-2.0-only */
/* Parses the link headers, the network header and the transport header, one after the other. */
#pragma once

#include "packet_start.h"
#include "link_headers.h"
#include "ip_headers.h"
#include "packet.h"
#include "transport_headers.h"
#include "tunnel.h"
#include "fast_path.h"

/* Number of bytes that the program pulls into the linear part of an skb if the linear part ends inside the headers. */
#define HEADER_BYTES 256

/* A bound for the verifier. The headers that the program skips are always shorter than this number of bytes. */
#define MAX_HEADER_BYTES 4096

/*
 * Moves the cursor to the offset `bytes`. Returns false if the linear part of the packet is shorter than `bytes`. The
 * comparison with MAX_HEADER_BYTES is only for the verifier, which needs a bound.
 */
static __always_inline bool seek(struct __sk_buff *skb, struct cursor *cursor, u64 bytes)
{
    if (bytes > MAX_HEADER_BYTES)
        return false;

    u64 at = (long)skb->data + bounded(bytes, MAX_HEADER_BYTES + 1);

    barrier_var(at);
    cursor->at = (void *)at;
    return cursor->at <= cursor->end;
}

/*
 * Returns the EtherType of a packet without a link header. Takes the EtherType from skb->protocol or, if skb->protocol
 * is not usable, from the version field of the IP header.
 */
static __always_inline u16 protocol_of(struct __sk_buff *skb, const struct iphdr *first)
{
    u16 protocol = __be16_to_cpu(skb->protocol);

    /* BPF_PROG_TEST_RUN takes skb->protocol from the bytes of the packet, and a packet socket may leave skb->protocol
     * unset. */
    if (!PACKET_CLOCK && protocol && protocol != ETH_P_ALL)
        return protocol;
    return first->version == 4 ? ETH_P_IP : first->version == 6 ? ETH_P_IPV6 : 0;
}

static __always_inline enum packet_kind parse_linear(struct __sk_buff *skb, u64 link_header, struct packet *packet)
{
    struct cursor cursor = {.at = (void *)(long)skb->data, .end = (void *)(long)skb->data_end};
    u64 length = wire_length(skb), end = length;
    u64 version;
    u16 protocol;

    if (link_header) {
        struct ethhdr *ethernet = take(&cursor, sizeof(*ethernet));

        if (!ethernet)
            return KIND_MALFORMED;
        protocol = __be16_to_cpu(ethernet->h_proto);
        if (lacks_ethernet(skb, ethernet))
            link_header = 0;
    }
    if (!link_header) {
        if (is_own_copy(skb))
            return KINDS;
        link_header = packet->start_offset = hide_from_verifier(packet, find_start_offset(skb, packet));
        if (!seek(skb, &cursor, link_header) || cursor.at + 1 > cursor.end)
            return KIND_MALFORMED;
        protocol = protocol_of(skb, cursor.at);
    }
    if (protocol == ETH_P_IP) {
        version = 4;
    } else if (protocol == ETH_P_IPV6) {
        version = 6;
    } else {
        enum packet_kind kind = skip_link_headers(skb, packet, protocol, &link_header, &end, &version);

        if (kind != KIND_OTHER)
            return kind;
    }
    if (TUNNELS)
        enter_tunnel(skb, &link_header, &version);

    /* From here, the verifier follows one path for all combinations of headers before the network header. */
    u64 link = hide_from_verifier(packet, link_header);

    version = hide_from_verifier(packet, version);
    end = hide_from_verifier(packet, end);
    if (!seek(skb, &cursor, link))
        return KIND_MALFORMED;
    packet->headers = link;

    u64 limit = length - link, rest = 0;
    enum packet_kind kind =
        version == 4 ? parse_ipv4(&cursor, limit, packet, &rest) : parse_ipv6(skb, &cursor, limit, packet, &rest);

    if (kind == KIND_MALFORMED) {
        u64 malformed = kind;

        barrier_var(malformed); /* without the barrier, most packets take more instructions */
        return malformed;
    }
    /* `end` is from the length field of a link header. If `end` is before the end of the IP packet, the bytes after
     * `end` are not payload. */
    if (packet->headers + rest > end)
        rest = end > packet->headers ? end - packet->headers : 0;

    /* From here, the verifier follows one path for both IPv4 and IPv6, so it checks the code for each transport header
     * once. */
    rest = hide_from_verifier(packet, rest);
    if (!seek(skb, &cursor, hide_from_verifier(packet, packet->headers)))
        return KIND_MALFORMED;
    if (kind == KIND_FRAGMENT)
        return kind;
    switch (packet->protocol) {
    case IPPROTO_TCP:
        return parse_tcp(&cursor, rest, packet);
    case IPPROTO_UDP:
        parse_udp(skb, &cursor, rest, packet);
        return KIND_UDP;
    case IPPROTO_ICMP:
    case IPPROTO_ICMPV6:
        parse_icmp(skb, rest, packet);
        return KIND_ICMP;
    default:
        return KIND_OTHER;
    }
}

/*
 * Returns the kind of a first fragment. If the transport header is incomplete, or is not TCP, UDP or ICMP, the kind is
 * KIND_FRAGMENT, as for all other fragments.
 */
static __always_inline enum packet_kind kind_of_first_fragment(enum packet_kind kind, struct packet *packet)
{
    cold();
    packet->tcp_flags |= TCP_IS_CUT;
    return kind == KIND_MALFORMED || kind == KIND_OTHER ? KIND_FRAGMENT : kind;
}

/*
 * The linear part of an skb usually contains all headers, and often contains only the headers. Pointers reach only the
 * linear part. If a header is not in the linear part, the program once pulls the first HEADER_BYTES bytes of the packet
 * into the linear part. The pull moves bytes, but does not change the packet's contents.
 */
static __always_inline u64 parse_slow_path(struct __sk_buff *skb, u64 link_header, struct packet *packet)
{
    enum packet_kind kind = KIND_MALFORMED;

    __builtin_memset(packet, 0, __builtin_offsetof(struct packet, scratch));
#pragma clang loop unroll(disable)
    for (int i = 0; i < 2; i++) {
        kind = parse_linear(skb, link_header, packet);
        if (kind != KIND_MALFORMED || skb->data_end - skb->data >= skb->len)
            break;
        if (bpf_skb_pull_data(skb, skb->len < HEADER_BYTES ? skb->len : HEADER_BYTES))
            break;
    }
    if (packet->more_fragments)
        kind = kind_of_first_fragment(kind, packet);
    return packet->start_offset ? kind | KIND_HAS_OFFSET : kind;
}

/*
 * Fills in those fields of `packet` that packets of this kind have. If the IP header is incomplete, the addresses are
 * 0. Returns an enum packet_kind, plus KIND_HAS_OFFSET if start_offset is not 0. Returns KINDS if the packet must not
 * be counted. The return type has 64 bits, because each comparison of a 32-bit number takes two more instructions.
 */
static __always_inline u64 parse_packet(struct __sk_buff *skb, u64 link_header, struct packet *packet)
{
    u64 kind = TUNNELS || link_header != ETH_HLEN ? KINDS : parse_fast_path(skb, packet);

    if (kind == KINDS) {
        cold();
        kind = parse_slow_path(skb, link_header, packet);
    }
    return kind;
}
