/* SPDX-License-Identifier: GPL-2.0-only */
/* The fields that the parser finds in a packet, and the functions that read the bytes of a packet. */
#pragma once

#include "maps.h"

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
/*
 * The parser sets this flag, which is not in the TCP header, if the packet is a first fragment. The end of the segment
 * is then unknown.
 */
#define TCP_IS_CUT 0x100

/*
 * A flag in the return value of parse_packet(). If the flag is set, the packet begins packet.start_offset bytes after
 * the start of the skb.
 */
#define KIND_HAS_OFFSET 8

_Static_assert(KINDS < KIND_HAS_OFFSET, "the flag is not part of a kind");

/* A packet completes at most 2 RTT samples, because the ACK of a handshake may also echo a timestamp. */
#define MAX_RTTS_PER_PACKET 2

enum echo { ECHO_NONE, ECHO_REQUEST, ECHO_REPLY }; /* of ICMP and ICMPv6 */

/*
 * One header between the Ethernet header and the network header (link_headers.h). Offsets are counted from the start of
 * the skb.
 */
struct link_step {
    u64 ethertype;      /* EtherType of this header */
    u64 offset;         /* offset of the start of this header */
    u64 end;            /* offset of the end of the packet */
    u64 next_ethertype; /* EtherType of the next header; 0: the last two bytes of this header contain it */
    u64 header_bytes;   /* length of this header; 0: no IP packet follows */
    u64 total_bytes;    /* number of bytes from the start of this header to the packet's end; 0: unknown */
};

/*
 * This struct is in a map with a row for each CPU. If the struct were on the stack, the verifier would know the values
 * of the fields, and would follow the rest of the program once for each path through the parser. The fields that most
 * packets use are in the first two cache lines.
 */
struct packet {
    struct address source;
    struct address destination;
    u16 source_port;
    u16 destination_port;
    u32 headers; /* number of bytes before the payload, including the link header */
    u32 payload; /* number of bytes after the transport header */
    u32 seq;     /* TCP */
    u32 ack_seq; /* TCP */
    u16 window;  /* TCP, before window scaling */
#if COPIES
    u16 identification; /* IPv4 */
    u16 checksum;       /* TCP, UDP, ICMP */
#endif
    u32 tsval; /* TCP */
    u32 tsecr;
    u16 echo_sequence; /* ICMP echo; both port fields contain the identifier */
    u64 udp_head;      /* first 8 bytes of UDP payload, in network byte order; 0: fewer than 8 bytes */
    bool has_timestamp;
    u16 tcp_flags;      /* flags of the TCP header, and TCP_IS_CUT */
    u16 more_fragments; /* not 0: the packet is a first fragment; only the slow path writes this field */
    u8 echo;            /* enum echo */
    u8 family;
    u8 protocol;
    u8 ecn;
    u8 rtt_count;     /* number of entries of `rtts` in use */
    u64 start_offset; /* with KIND_HAS_OFFSET, number of bytes in the skb before the packet */
    u64 scratch;      /* see hide_from_verifier() */
    /* One entry for each RTT sample that this packet completes: send time of the answered packet, and method. */
    struct {
        u64 sent_ns;
        u64 method;
    } rtts[MAX_RTTS_PER_PACKET];
    struct link_step link;
};

_Static_assert(__builtin_offsetof(struct packet, rtts[1]) <= 2 * CACHE_LINE, "most packets use two cache lines");

DIRECT_TABLE(DIRECT_PACKETS, struct packet, packets, CPUS)

/*
 * Returns `number` unchanged. The verifier does not know the value of the result, because the function reads the result
 * from a map. If several paths lead to the same call, the verifier follows the code after the call once, and not once
 * for each path. A call takes a store and a load, so only code for rare packets should call this function.
 * barrier_var() does not have this effect, because the verifier still knows the value of the register.
 */
static __always_inline u64 hide_from_verifier(struct packet *packet, u64 number)
{
    volatile u64 *scratch = &packet->scratch;

    *scratch = number;
    return *scratch;
}

/* A position in the linear part of a packet, which the parser reads from front to back. */
struct cursor {
    void *at;
    void *end;
};

/*
 * Returns the header of `size` bytes at the cursor, and moves the cursor to the end of this header. Returns NULL if the
 * packet ends before the end of this header.
 */
static __always_inline void *take(struct cursor *cursor, u64 size)
{
    void *header = cursor->at;

    if (header + size > cursor->end)
        return 0;
    cursor->at = header + size;
    return header;
}

/*
 * Returns the number of bytes on the wire, including the link header. wire_len includes the headers of all segments of
 * an outgoing skb (qdisc_pkt_len_init()), and the bytes that a capture cut off. For an incoming packet, wire_len does
 * not include the link header, so skb->len is greater than wire_len.
 */
static __always_inline u64 wire_length(struct __sk_buff *skb)
{
    return skb->wire_len > skb->len ? skb->wire_len : skb->len;
}

/*
 * Returns whether a segment is complete and has the flag ACK, but not SYN, FIN or RST. Nearly all segments are complete
 * and have only the flag ACK. The code for segments is compiled twice: once for segments that have only the flag ACK,
 * and once for all other segments. The code for segments that have only the flag ACK is 20 % shorter.
 */
static __always_inline bool has_only_ack(const struct packet *packet)
{
    return (packet->tcp_flags & (TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK | TCP_IS_CUT)) == TCP_ACK;
}

/*
 * Returns the index of the packet's source in an entry that both directions of a flow share. The index is 0 for the
 * internal endpoint and 1 for the external endpoint. If the sides are unknown, as in a capture, the endpoint with the
 * greater address and port counts as external in both directions.
 */
static __always_inline u64 source_index(const struct packet *packet, u32 source_side)
{
    if (source_side != SIDE_UNKNOWN)
        return source_side == SIDE_EXTERNAL;
    cold();
    if (packet->source.half[0] != packet->destination.half[0])
        return packet->source.half[0] > packet->destination.half[0];
    if (packet->source.half[1] != packet->destination.half[1])
        return packet->source.half[1] > packet->destination.half[1];
    return packet->source_port > packet->destination_port;
}
