/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Everything that outlives a packet, and all that user space sees of this program. User space learns these layouts from
 * BCC's description of the compiled tables (otel_epping/kernel/memory.py), by the names written here. BCC describes
 * arrays of one dimension only: keep to those.
 *
 * Arrays that user space reads are BPF_F_MMAPABLE and only ever grow: nothing is cleared or swapped at read-out, so
 * nothing is lost between two reads. Packet counters are frequent, so each CPU has rows of its own, in cache lines of
 * its own, and adds without a lock (a tc program runs with bottom halves off and isn't interrupted by another run on
 * its CPU). RTTs are rare, so histograms are shared by all CPUs and added to atomically, and memory does not grow with
 * CPUs. What belongs to a slot lies together, all CPUs of it, so that user space maps only as much as is in use.
 */
#pragma once

#include "config.h"
#include "direct_value.h"

#define INTERFACES 1024     /* that have a number, and so a name, at a time */
#define INTERFACE_ROWS 4096 /* of the table that finds one: sparse, so that there is a place for each */
#define UNKNOWN_INTERFACE_ROW INTERFACE_ROWS
#define UNKNOWN_INTERFACE 0
#define OVERFLOW_SLOT 0
#define SLOTS (MAX_SUBNETS + 1)
#define OUTSTANDING 4

/* An IPv6 address in network byte order, or an IPv4 address mapped into one (::ffff:a.b.c.d, RFC 4291 2.5.5.2). */
struct address {
    u64 half[2];
};

enum family { FAMILY_V4 = 4, FAMILY_V6 = 6 };

/* Where an endpoint is, seen from the interface: on the internet's side of it, or on the customer's. */
enum side { SIDE_EXTERNAL, SIDE_INTERNAL, SIDE_UNKNOWN };

/* In the order of otel_epping/kernel/methods.py. */
enum method {
    METHOD_TCP_TIMESTAMP,
    METHOD_TCP_SEQUENCE,
    METHOD_TCP_HANDSHAKE,
    METHOD_ICMP_ECHO,
    METHOD_DNS,
    METHOD_QUIC_HANDSHAKE,
};

/* Traffic is counted in the slots of this method. */
#define TRAFFIC_METHOD METHOD_TCP_TIMESTAMP

/* ---- subnets: key -> slot; a slot is a row of the arrays `slots`, `histograms` and `traffic` */

struct subnet_key {
    struct address prefix;
    u16 interface;
    u8 family;
    u8 side;
    u8 method;
    u8 shorter; /* 0 here; user space: by how many bits the prefix is shorter than those of subnets (rollup.py) */
    u8 zero[2];
};

BPF_TABLE("hash", struct subnet_key, u32, subnets, MAX_SUBNETS);
BPF_QUEUE(free_slots, u32, MAX_SUBNETS);

struct slot {
    struct subnet_key key;
    u64 created_ns;
    u64 live; /* set last, when the row is whole and belongs to `key` */
};

BPF_F_TABLE("array", u32, struct slot, slots, SLOTS, BPF_F_MMAPABLE);

/* ---- what user space tells the program */

struct control {
    /* Raised when user space has taken slots back or made new ones free: cached slots of older epochs are looked up
     * anew. */
    u32 epoch;
    /* Number of the export interval, for extremes of one interval; see histogram.h. */
    u32 interval;
};

BPF_ARRAY(control, struct control, 1);

static __always_inline const struct control *what_is_told(void)
{
    return DIRECT_ADDRESS(DIRECT_CONTROL, const struct control);
}

/*
 * Row i holds the interface whose index hashes to i (open addressing by ifindex, 4 probes). Counts belong to its
 * number, which user space gives to a name: an interface that comes back has another index, and goes on where it was.
 * Numbers are used again. What stands in keys is `id`, which is that of another interface after 65,535 others only. The
 * last row is for all that are not in the table: a row like the others, so that the verifier has one way on.
 */
struct interface {
    u32 ifindex;
    u16 link_header; /* bytes of the Ethernet header that devices of its type have, or 0; see packet_start.h */
    u16 number;
    u16 id;
    u16 unused;
    /* The side of what goes out through it, and of what comes in: it depends on what the interface faces, and in a
     * capture nobody knows. */
    u16 side[2];
};

DIRECT_TABLE(DIRECT_INTERFACES, struct interface, interfaces, INTERFACE_ROWS + 1)

/* ---- histograms */

/* Whole, and not half of an RTT, while as many RTTs ended as began. */
struct histogram {
    u64 began;
    u64 ended;
    u64 sum_ns;
    u64 min_word[2];
    u64 max_word[2];
    u32 buckets[BUCKETS];
};

BPF_F_TABLE("array", u32, struct histogram, histograms, SLOTS, BPF_F_MMAPABLE);

/* See histogram.h: RTTs of one cell are in bucket `bucket` up to `edge_ns`, and in the next one above. */
struct cell {
    u64 edge_ns;
    u64 bucket;
};

#define CELL_OCTAVES 27
#define CELLS (CELL_OCTAVES << (SCALE + 1))

BPF_F_TABLE("array", u32, struct cell, cells, CELLS, BPF_F_MMAPABLE);

/* ---- traffic */

struct tally {
    u64 packets;
    u64 bytes;
};

enum traffic_class { CLASS_TCP_TIMESTAMP, CLASS_UDP, CLASS_TCP_OTHER, CLASS_ICMP, CLASS_OTHER, CLASSES };

#define ECN_CODEPOINTS 4 /* RFC 3168 section 5 */

/* Sent by the subnet, and sent to it. */
struct both_ways {
    struct tally from;
    struct tally to;
};

/*
 * Row slot * CPUS + cpu. What nine in ten packets add to, TCP with timestamps and UDP, is in the first cache line. ECN
 * code points but for the first, which is what remains of all packets; in 32 bits, which may wrap around, so that a row
 * has no more than three.
 */
struct traffic {
    struct both_ways classes[CLASSES];
    u32 ecn_from[ECN_CODEPOINTS - 1];
    u32 ecn_to[ECN_CODEPOINTS - 1];
    u64 unused; /* to the end of the cache line */
};

BPF_F_TABLE("array", u32, struct traffic, traffic, SLOTS *CPUS, BPF_F_MMAPABLE);

/* See tcp_method_choice.h. In the order of TIMESTAMP_FAULTS of otel_epping/conventions.py. */
enum timestamp_fault { FAULT_MISSING, FAULT_STILL, FAULT_UNECHOED, TIMESTAMP_FAULTS };
enum packet_kind { KIND_TCP, KIND_UDP, KIND_ICMP, KIND_OTHER, KIND_FRAGMENT, KIND_NON_IP, KIND_MALFORMED, KINDS };

/* Row number of the interface * CPUS + cpu. */
struct interface_counters {
    struct tally received[KINDS];
    struct tally transmitted[KINDS];
    u64 ecn[ECN_CODEPOINTS];
    u64 flows_created;
    u64 flow_insert_failed;
    u64 subnet_insert_failed;
    u64 rtt_clamped[2]; /* to the least, to the greatest RTT there is a bucket for */
    u64 rtt_begun;
    u64 rtt_not_begun;  /* OUTSTANDING timestamps waited already */
    u64 rtt_expired;    /* no reply within MAX_AGE_NS */
    u64 rtt_superseded; /* a later timestamp was echoed first */
    u64 rtt_repeated;   /* asked again before it was answered */
    u64 rtt_abandoned;  /* no reply can be recognized any more: see tcp_method_choice.h */
    u64 rtt_measured;
    u64 timestamp_fault[TIMESTAMP_FAULTS]; /* directions of flows that sequence numbers time from then on */
    u64 duplicates;                        /* see copies.h */
};

DIRECT_TABLE(DIRECT_INTERFACE_COUNTERS, struct interface_counters, interface_counters, (INTERFACES + 1) * CPUS)

/* ---- what TCP flows did; rare, so shared by all CPUs and added to atomically, like histograms */

enum opening { OPENED_SYN, OPENED_MIDWAY, OPENINGS };
enum closing { CLOSED_FIN, CLOSED_RST, CLOSINGS };

/* [0] of segments from the subnet, [1] of segments to it; of flows with one end in the subnet. */
struct flow_counters {
    u64 retransmitted[2];
    u64 out_of_order[2];
    u64 zero_window[2];
    u64 opened[OPENINGS];
    u64 closed[CLOSINGS];
};

BPF_F_TABLE("array", u32, struct flow_counters, flow_counters, SLOTS, BPF_F_MMAPABLE);

/* ---- flows */

/*
 * Both directions share an entry. As a packet's sides are known, so is which of its endpoints is which, and one that
 * comes in and leaves by the same interface is two flows. In a capture nobody knows: there the external one is the one
 * with the greater address and port.
 */
struct flow_key {
    struct address internal;
    struct address external;
    u16 internal_port;
    u16 external_port;
    u16 interface;
    u8 family;
    u8 zero;
};

/* What one endpoint sent, but for what waits for a reply. A cache line. */
struct half_flow {
    u64 edge_ns;     /* coarse time at which the TSval last changed; 0: none seen yet */
    u64 advanced_ns; /* coarse time at which next_seq last advanced; 0: none seen yet */
    u64 accepted_ns; /* when its SYN-ACK went by; 0: none waits for its ACK */
    u64 begun_ns;    /* coarse time at which the last RTT was begun */
    u32 accepted_seq;
    u32 last_tsval;
    u32 next_seq;  /* one beyond the greatest sequence number that it sent */
    u32 acked;     /* the greatest acknowledgement number that it sent */
    u32 window;    /* of its last segment, plus 1; 0: none was seen */
    u32 first_seq; /* one beyond that of its SYN; 0: not seen */
    u8 heard;      /* 1: it spoke since the flow was last closed */
    u8 waiting;    /* bit i: place i of struct outstanding is taken */
    u8 duplicates; /* acknowledgements of `acked` that say nothing else, beyond the first */
    u8 timing;     /* see tcp_method_choice.h */
    u32 awaited;   /* what ought to be echoed, or what shows that; see tcp_method_choice.h */
};

/* What one endpoint sent that waits for a reply. */
struct outstanding {
    u64 sent_ns[OUTSTANDING];
    u32 awaited[OUTSTANDING]; /* the TSval; [0] may be the sequence number that acknowledges (tcp_method_choice.h) */
};

/* A flow that was silent for longer is closed, and what it sends then opens another. */
#define FLOW_IDLE_NS 300000000000ULL
#define FLOW_CLOSED 3 /* bit i: endpoint i finished */

/* [0] of the internal endpoint, [1] of the external one. The first cache line is looked at for each packet and at each
 * reading. */
struct flow {
    struct flow_key key;
    u64 last_ns;   /* coarse time of its last packet */
    u64 cached[2]; /* epoch << 32 | slot of the endpoint's subnet */
    struct half_flow half[2];
    struct outstanding outstanding[2];
    u64 syn_ns;       /* when the SYN of its SYN-ACK was seen; 0: it was not, or more than once */
    u64 handshake_ns; /* from there to the ACK of the SYN-ACK; 0: not seen */
    u64 state;        /* FLOW_CLOSED or less */
    u64 copied;       /* 1: a copy of one of its segments was seen (copies.h) */
};

/* See flow_table.h: a flow has its place among the FLOW_WAYS rows of one set. */
#define FLOW_WAYS 16
#define FLOW_SETS ((MAX_FLOWS + FLOW_WAYS - 1) / FLOW_WAYS)

BPF_F_TABLE("array", u32, struct flow, flows, FLOW_SETS *FLOW_WAYS, BPF_F_MMAPABLE);

/* Of each row of a set: 0 if it is free, or some bits of the hash of its flow's key, and of FLOW_TAGS. A cache line. */
struct flow_set {
    u32 tags[FLOW_WAYS];
};

DIRECT_TABLE(DIRECT_FLOW_SETS, struct flow_set, flow_sets, FLOW_SETS)

/* Whether a CPU is about to give away a row of the set. */
BPF_ARRAY(flow_locks, u64, FLOW_SETS);

/* ---- pairs of subnets; see slot_cache.h */

#define PAIR_BITS 12

/* Unless subnets of IPv6 have more than 64 bits, one half of a prefix is 0 or, of IPv4, always the same. */
#define PREFIX_WORDS (PREFIX_V6 > 64 ? 2 : 1)

struct prefix {
    u64 word[PREFIX_WORDS];
};

/*
 * The slots of two subnets that talk without a TCP flow, which is which as in struct flow_key. Row cpu << PAIR_BITS |
 * hash, whose last bit is 0 for the one that came last. As a rule both are in one cache line.
 */
struct pair {
    struct prefix internal;
    struct prefix external;
    u64 mark; /* epoch << 32 | interface << 8 | family; 0: this place is free */
    u32 slots[2];
};

DIRECT_TABLE(DIRECT_PAIRS, struct pair, pairs, CPUS << PAIR_BITS)

/* ---- questions and answers; see transaction.h */

struct exchange_key {
    struct address asker;
    struct address answerer;
    u16 asker_port;
    u16 answerer_port;
    u32 identifier;
    u16 interface;
    u8 family;
    u8 method;
    u8 asker_external;
    u8 zero[3];
};

#define MAX_EXCHANGES (MAX_FLOWS / 5 * 4)

struct exchange {
    u64 asked_ns;
    u32 state;    /* enum exchange_state */
    u32 asked_as; /* with EXCHANGE_ALIAS, the question's identifier */
};

BPF_TABLE("lru_hash", struct exchange_key, struct exchange, exchanges, MAX_EXCHANGES);
