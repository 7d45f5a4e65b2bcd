/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Recognizes copies of packets. A capture of several interfaces, or a mirror port, may contain the same packet twice,
 * from two points of its path. The program measures the first copy and counts the second copy as a duplicate. Both
 * copies have the same transport header and the same identification in the IPv4 header. The TTL, the link header and
 * the ECN field may change on the path.
 *
 * A retransmitted segment can have the same headers as the original segment. The headers are the same if neither
 * segment has an identification (IPv6, or IPv4 according to RFC 6864). The program can then distinguish a copy from a
 * retransmission only by the time between both packets. A sender retransmits a segment only after a reply of the
 * receiver or after a timeout. So a retransmission follows the original segment after at least one RTT.
 */
#pragma once

#include "dns.h"
#include "tcp_retransmission.h"
#include "transaction.h"

#if COPIES

/*
 * The number of rows of the table. At a rate of one million packets per second, fewer than RECENT_PACKETS packets pass
 * within COPY_NS.
 */
#define RECENT_BITS 15
#define RECENT_PACKETS (1 << RECENT_BITS)

/*
 * A packet that is repeated within COPY_WITH_ID_NS or COPY_WITHOUT_ID_NS is a copy, even if the RTT of the packet's
 * flow is shorter. COPY_WITH_ID_NS is for packets with an IPv4 identification, and COPY_WITHOUT_ID_NS is for packets
 * without an identification.
 */
#define COPY_WITH_ID_NS 1000000
#define COPY_WITHOUT_ID_NS 100000

struct recent_packet {
    u64 hash; /* hash of all fields that are equal in a packet and its copy */
    u64 seen_ns;
    u32 acked; /* `acked` and `dup_acks` are copied from the receiver's half_flow at the time seen_ns */
    u32 dup_acks;
};

_Static_assert(RECENT_PACKETS > COPY_NS / 1000, "a packet per microsecond");

/*
 * Benign race: all CPUs share the table. At worst a copy counts as a retransmission. Without the table, each copy would
 * count as a retransmission.
 */
BPF_F_TABLE("array", u32, struct recent_packet, recent_packets, RECENT_PACKETS, BPF_F_MMAPABLE);

/*
 * The hash includes only fields that packets of this kind have. parse_fast_path() does not write the fields that
 * packets of another kind have, so these fields still contain the values of an earlier packet.
 */
static __always_inline u64 packet_hash(const struct packet *packet, u64 kind)
{
    u64 hash = mix(HASH_KEY, packet->source.half[0]);

    hash = mix(hash, packet->source.half[1]);
    hash = mix(hash, packet->destination.half[0]);
    hash = mix(hash, packet->destination.half[1]);
    hash = mix(hash, (u64)packet->source_port << 48 | (u64)packet->destination_port << 32 | packet->payload);
    hash = mix(hash, (u64)packet->identification << 48 | (u64)packet->checksum << 32 | packet->protocol);
    if (kind == KIND_UDP)
        return mix(hash, packet->udp_head);
    if (kind == KIND_ICMP)
        return mix(hash, (u64)packet->echo_sequence << 8 | packet->echo);
    hash = mix(hash, (u64)packet->seq << 32 | packet->ack_seq);
    hash = mix(hash, (u64)packet->window << 16 | packet->tcp_flags);
    return packet->has_timestamp ? mix(hash, (u64)packet->tsval << 32 | packet->tsecr) : hash;
}

/*
 * Returns whether the sender may send two segments with identical headers. A sender may send the same acknowledgement
 * twice (RFC 5681 section 4.2), and also the same RST. The headers do not show whether such a segment is a copy.
 */
static __always_inline bool may_repeat_unchanged(const struct packet *packet)
{
    return !packet->identification && !packet->payload && !(packet->tcp_flags & (TCP_SYN | TCP_FIN));
}

/* Returns the time in ns within which a repeated segment is a copy, or 0 if a repeated segment is never a copy. */
static __always_inline u64 segment_copy_window(const struct context *ctx, const struct recent_packet *recent)
{
    const struct packet *packet = ctx->packet;
    const struct half_flow *receiver = ctx->receiver;
    u64 within_ns = packet->identification ? COPY_WITH_ID_NS : COPY_WITHOUT_ID_NS;

    /* A segment that may be repeated unchanged is a copy only if other segments of the flow have copies. */
    if (may_repeat_unchanged(packet) && !(ctx->has_flow && ctx->flow->has_copies))
        return 0;
    if (!ctx->has_flow || packet->tcp_flags & TCP_SYN)
        return COPY_NS;
    /* Duplicate acknowledgements have requested this segment since its first copy was seen, so the segment is a fast
     * retransmission. */
    if (is_requested_by_dup_acks(ctx, packet->seq) &&
        (receiver->acked != recent->acked || receiver->dup_acks != recent->dup_acks))
        return 0;
    if (ctx->flow->handshake_ns / 2 > within_ns)
        within_ns = ctx->flow->handshake_ns / 2;
    return within_ns < COPY_NS ? within_ns : COPY_NS;
}

/*
 * Returns the time in ns within which a repeated packet is a copy, or 0 if a repeated packet is never a copy. Datagrams
 * with the same first bytes may differ in later bytes, which the program does not read. It is also possible that the
 * checksum is not filled in yet. So the program recognizes a copy of a datagram only if the datagram has an IPv4
 * identification or the identifier of a request.
 */
static __always_inline u64 copy_window(const struct context *ctx, u64 kind, const struct recent_packet *recent)
{
    const struct packet *packet = ctx->packet;

    if (kind == KIND_TCP)
        return segment_copy_window(ctx, recent);
    if (packet->identification || (kind == KIND_ICMP && packet->echo))
        return COPY_WITH_ID_NS;
    return packet->source_port == __cpu_to_be16(DNS_PORT) || packet->destination_port == __cpu_to_be16(DNS_PORT)
               ? COPY_WITH_ID_NS
               : 0;
}

/* Returns whether this packet is a copy of an earlier packet. Stores a packet that is not a copy in the table. */
static __always_inline bool is_copy(const struct context *ctx, u64 kind)
{
    u64 now_ns = precise_now(ctx->skb), hash;
    struct recent_packet *recent;
    u32 row;

    if (!now_ns || (kind != KIND_TCP && kind != KIND_UDP && kind != KIND_ICMP))
        return false;
    hash = packet_hash(ctx->packet, kind);
    row = hash >> (64 - RECENT_BITS); /* the high bits of a product depend on all bits of both factors */
    recent = recent_packets.lookup(&row);
    if (!recent)
        return false;
    if (recent->hash == hash) {
        u64 within_ns = copy_window(ctx, kind, recent);

        /* The times of a capture may run backwards. If this packet has an earlier time than the recent packet, the
         * unsigned difference of the times is very large, so this packet is not a copy. */
        if (within_ns && now_ns - recent->seen_ns <= within_ns) {
            if (kind == KIND_TCP && may_repeat_unchanged(ctx->packet))
                recent->hash = 0; /* a packet has at most one copy, so the next packet with this hash is new */
            else if (ctx->has_flow)
                ctx->flow->has_copies = 1;
            return true;
        }
    }
    recent->hash = hash;
    recent->seen_ns = now_ns;
    if (ctx->has_flow) {
        recent->acked = ctx->receiver->acked;
        recent->dup_acks = ctx->receiver->dup_acks;
    }
    return false;
}

#endif
