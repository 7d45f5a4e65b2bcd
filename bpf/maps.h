/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Declares the maps of subnets, interfaces, histograms and traffic, which user space reads or writes. flow_maps.h
 * declares the maps that the program uses to match packets with their replies. User space reads the layouts and the
 * names of all fields from BCC's description of the compiled tables (otel_epping/kernel/map_array.py). BCC describes
 * only arrays of one dimension, so no field has two dimensions.
 *
 * Arrays that user space reads have the flag BPF_F_MMAPABLE, and their counts only grow. User space does not clear or
 * swap the arrays when it reads them, so no count is lost between two reads.
 *
 * Packets are frequent, so each CPU has its own rows for packet counts, in its own cache lines, and needs no lock. A tc
 * program runs with bottom halves disabled, so another run of the program on the same CPU cannot interrupt it. RTTs are
 * rare, so all CPUs share the histograms and update them atomically. Because the histograms are shared, their size does
 * not depend on the number of CPUs. In arrays with a row for each CPU, the rows of a slot are adjacent, so that user
 * space can map only the rows of the slots in use.
 */
#pragma once

#include "config.h"
#include "control.h"
#include "direct_value.h"
#include "methods.h"

#define CACHE_LINE 64

#define INTERFACES 1024     /* maximum number of interfaces that have a number at the same time */
#define INTERFACE_ROWS 4096 /* rows of the hash table of interfaces: four rows per interface */
#define UNKNOWN_INTERFACE_ROW INTERFACE_ROWS
#define UNKNOWN_INTERFACE 0

/*
 * Two slots are shared. UNANSWERED_SLOT counts packets of subnets that have not answered yet, if no slot is free for
 * such a subnet. OVERFLOW_SLOT counts packets of all other subnets without a slot.
 */
enum shared_slot { OVERFLOW_SLOT, UNANSWERED_SLOT, SHARED_SLOTS };

#define SLOTS (MAX_SLOTS + SHARED_SLOTS)
#define NO_BLOCK 0

_Static_assert((INTERFACE_ROWS & (INTERFACE_ROWS - 1)) == 0, "a power of two");

/* An IPv6 address in network byte order, or an IPv4-mapped IPv6 address (::ffff:a.b.c.d, RFC 4291 2.5.5.2). */
struct address {
    u64 half[2];
};

/* FAMILY_NAMED is only in keys of slots: the prefix is then {number, 0} with the number of a named network. */
enum family { FAMILY_NAMED = 0, FAMILY_V4 = 4, FAMILY_V6 = 6 };

/* The side of the interface on which an endpoint is: external (the internet) or internal (the customers). */
enum side { SIDE_EXTERNAL, SIDE_INTERNAL, SIDE_UNKNOWN };

/*
 * ---- subnets and named networks: key -> slot. A slot is a row of the arrays `slots`, `traffic` and `flow_counters`
 * (subnet.h).
 */

struct subnet_key {
    struct address prefix;
    u16 interface; /* identifier: struct interface.id */
    u8 family;
    u8 side;
    /* 0 in this program. In user space, number of bits by which the prefix length of a covering prefix is smaller than
     * the prefix length of subnets (series/prefixes.py). */
    u8 shorter;
    u8 zero[3];
};

_Static_assert(sizeof(struct subnet_key) == 24, "a hash key without padding");

BPF_TABLE("hash", struct subnet_key, u32, subnets, MAX_SLOTS);
BPF_QUEUE(free_slots, u32, MAX_SLOTS);

/* Two 32-bit numbers share a word, because LLVM 14 can compare and exchange only 64 bits (histogram.h). */
#define PAIRS(numbers) (((numbers) + 1) / 2)

/* Bits of a slot's state. A subnet is a newcomer until an RTT is measured for it. The first RTT sets SLOT_ANSWERED.
 * SLOT_NEWCOMER is not cleared. */
enum slot_state { SLOT_FREE, SLOT_NEWCOMER, SLOT_ANSWERED, SLOT_STATE_MASK };

struct slot {
    struct subnet_key key;
    u64 created_ns;
    /* sketch << 32 | covering << 8 | enum slot_state. `sketch` is the result of sketch_of() for a newcomer. `covering`
     * is the row of the subnet's covering prefix in `claims`. If the state is not SLOT_FREE, all fields are valid. */
    u64 state;
    u64 histograms[PAIRS(METHOD_COUNT)]; /* the histogram of each method; 0: none */
};

_Static_assert(sizeof(struct slot) == CACHE_LINE, "a cache line");

BPF_F_TABLE("array", u32, struct slot, slots, SLOTS, BPF_F_MMAPABLE);

/*
 * `claimed` minus `released` is the number of slots, histograms or blocks in use. Both numbers wrap around. The rows
 * count all slots, the slots of newcomers, histograms, blocks, and the slots of the subnets in each covering prefix. A
 * hash selects the row of a covering prefix, so several covering prefixes may share a row. Only the program writes
 * `claimed`, and only user space writes `released`. So no change of a number can be lost.
 */
#define COVERING_BITS 12
enum claims_row { CLAIMS_SLOTS, CLAIMS_NEWCOMERS, CLAIMS_HISTOGRAMS, CLAIMS_BLOCKS, CLAIMS_COVERING };

struct claims {
    u32 claimed;
    u32 released;
    u64 fresh; /* number of rows of the table that were ever in use */
};

BPF_F_TABLE("array", u32, struct claims, claims, CLAIMS_COVERING + (1 << COVERING_BITS), BPF_F_MMAPABLE);

#define FRESH_ROW_TRIES 4

static __always_inline u32 in_use(const struct claims *claims)
{
    return claims->claimed - claims->released;
}

/*
 * Returns a row that was never in use. Returns 0 if all rows have been in use. `first` is the number of the first row.
 * The caller takes rows from the queue of freed rows first. So user space does not have to put all rows into the queue
 * at the start. Benign race: if other CPUs take rows FRESH_ROW_TRIES times in the meantime, the result is 0, too.
 */
static __always_inline u32 fresh_row(struct claims *claims, u32 first, u64 limit)
{
    u64 fresh = claims->fresh;

    for (int i = 0; i < FRESH_ROW_TRIES && fresh < limit; i++) {
        u64 before = __sync_val_compare_and_swap(&claims->fresh, fresh, fresh + 1);

        if (before == fresh)
            return first + fresh;
        fresh = before;
    }
    return 0;
}

/*
 * Estimates the number of subnets without a slot that have not answered (HyperLogLog: Flajolet et al., 2007). A hash of
 * the subnet selects a register. The rank of the subnet is the number of leading zeros in the rest of the hash, plus 1.
 * The register stores the greatest rank of its subnets. The value is interval << 8 | rank, so that the first value of a
 * new interval is greater than all earlier values.
 */
#define SKETCH_BITS 12

struct sketch_register {
    u64 word[2]; /* [0] in even intervals, [1] in odd intervals */
};

BPF_F_TABLE("array", u32, struct sketch_register, unanswered_sketch, 1 << SKETCH_BITS, BPF_F_MMAPABLE);

/* ---- interfaces */

/*
 * A hash table with open addressing and 4 probes. The key is the ifindex. The field `number` selects the counters of an
 * interface. User space assigns a number to each interface name. An interface that is created again with the same name
 * has another ifindex, but the same number. User space reuses the number of an interface that no longer exists. The
 * keys of other maps contain the field `id`. User space reuses an `id` only after it has assigned an `id` to 65,535
 * other interfaces. The last row is for all interfaces that are not in the table. The last row has the same format as
 * the other rows, so the verifier follows only one path for all interfaces.
 */
struct interface {
    u32 ifindex;
    u16 link_header; /* length of the Ethernet header of this type of device; 0: no Ethernet header (packet_start.h) */
    u16 number;
    u16 id;
    u16 unused;
    /* The side of the sender (enum side). [0] is for packets that leave through the interface, and [1] is for packets
     * that arrive. The two sides depend on the network to which the interface is connected. In a capture, the sides are
     * unknown. */
    u16 side[2];
};

DIRECT_TABLE(DIRECT_INTERFACES, struct interface, interfaces, INTERFACE_ROWS + 1)

/* ---- histograms */

/*
 * The buckets of a histogram are in blocks. A block is claimed when an RTT is counted in one of its buckets. RTTs of a
 * subnet are typically in three of 26 blocks, so blocks need a fifth of the memory of whole histograms.
 */
#define BLOCK_BUCKETS 16
#define HISTOGRAM_BLOCKS ((BUCKETS + BLOCK_BUCKETS - 1) / BLOCK_BUCKETS)

struct block {
    u32 buckets[BLOCK_BUCKETS];
};

_Static_assert(sizeof(struct block) == CACHE_LINE, "a cache line");

/*
 * For each RTT, the program first increments `began`, then changes the other counts, and then increments `ended`. A
 * reader reads `ended` first, then the other counts, and `began` last. If `began` and `ended` are equal, the counts
 * that the reader has read are consistent: each RTT is in all counts or in no count.
 */
struct histogram {
    u64 began;
    u64 ended;
    u64 sum_ns;
    u64 min_word[2]; /* see atomic_max() in histogram.h; [0] for even intervals, [1] for odd intervals */
    u64 max_word[2];
    u32 slot;
    u16 method;      /* enum method */
    u16 blocks_used; /* number of blocks that are not NO_BLOCK; may be too low by a few, see claim_block() */
    u64 blocks[PAIRS(HISTOGRAM_BLOCKS)];
};

/* Histogram 0 belongs to OVERFLOW_SLOT and has RTTs of all methods. User space gives it all its blocks at the start.
 * Block 0 is never used: all of its buckets are 0. */
#define OVERFLOW_HISTOGRAM 0

BPF_F_TABLE("array", u32, struct histogram, histograms, MAX_HISTOGRAMS + 1, BPF_F_MMAPABLE);
BPF_QUEUE(free_histograms, u32, MAX_HISTOGRAMS);
BPF_F_TABLE("array", u32, struct block, blocks, MAX_BLOCKS + HISTOGRAM_BLOCKS + 1, BPF_F_MMAPABLE);
BPF_QUEUE(free_blocks, u32, MAX_BLOCKS);

/*
 * An RTT in this cell belongs to `bucket` if the RTT is at most `edge_ns`, and to the next bucket if the RTT is greater
 * (histogram.h).
 */
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

/* `from` counts the packets that a subnet sent, and `to` counts the packets that were sent to the subnet. */
struct two_way_tally {
    struct tally from;
    struct tally to;
};

/*
 * The row number is slot * CPUS + cpu. About 90 % of all packets are UDP packets, or TCP segments with timestamps. The
 * counters of these two classes are in the first cache line. There is no counter for packets with the ECN code point 0.
 * User space subtracts the packets with other code points from all packets, to count the packets with the code point 0.
 * ECN counters have only 32 bits, so that a row fits into three cache lines. ECN counters wrap around.
 */
struct traffic {
    struct two_way_tally classes[CLASSES];
    u32 ecn_from[ECN_CODEPOINTS - 1];
    u32 ecn_to[ECN_CODEPOINTS - 1];
    u64 unused; /* fills the cache line */
};

_Static_assert(sizeof(struct two_way_tally[CLASS_UDP + 1]) == CACHE_LINE, "TCP with timestamps and UDP: a cache line");
_Static_assert(sizeof(struct traffic) == 3 * CACHE_LINE, "three cache lines");

BPF_F_TABLE("array", u32, struct traffic, traffic, SLOTS *CPUS, BPF_F_MMAPABLE);

/*
 * The reasons why timestamps are not used in one direction of a flow (tcp_method_choice.h). The order is the same as in
 * TIMESTAMP_FAULTS of otel/semconv.py.
 */
enum timestamp_fault { FAULT_MISSING, FAULT_STILL, FAULT_UNECHOED, TIMESTAMP_FAULTS };
enum packet_kind { KIND_TCP, KIND_UDP, KIND_ICMP, KIND_OTHER, KIND_FRAGMENT, KIND_NON_IP, KIND_MALFORMED, KINDS };

/* The row number is interface.number * CPUS + cpu. */
struct interface_counters {
    struct tally received[KINDS];
    struct tally transmitted[KINDS];
    u64 ecn[ECN_CODEPOINTS];
    u64 flows_created;
    u64 flow_insert_failed;
    u64 subnet_insert_failed;
    u64 rtt_clamped[2]; /* RTTs that were [0] raised to RTT_MIN_NS, [1] lowered to RTT_MAX_NS */
    u64 rtt_begun;      /* RTT samples started */
    u64 rtt_not_begun;  /* not started: MAX_OUTSTANDING timestamps already wait for a reply */
    u64 rtt_expired;    /* no reply within MAX_AGE_NS */
    u64 rtt_superseded; /* the reply to a later packet arrived first */
    u64 rtt_repeated;   /* the packet was sent again before its reply arrived */
    u64 rtt_abandoned;  /* the program can no longer recognize the reply (tcp_method_choice.h) */
    u64 rtt_measured;
    u64 timestamp_fault[TIMESTAMP_FAULTS]; /* number of changes from timestamps to sequence numbers */
    u64 duplicates;                        /* number of packets that are copies (copies.h) */
};

_Static_assert(sizeof(struct interface_counters) % CACHE_LINE == 0, "no cache line is shared by two CPUs");

DIRECT_TABLE(DIRECT_INTERFACE_COUNTERS, struct interface_counters, interface_counters, (INTERFACES + 1) * CPUS)

/*
 * ---- TCP events per subnet. TCP events are rare, so all CPUs share the rows and update them atomically, as in
 * histograms.
 */

enum opening { OPENED_SYN, OPENED_MIDWAY, OPENINGS };
enum closing { CLOSED_FIN, CLOSED_RST, CLOSINGS };

/*
 * In the first three arrays, [0] counts the segments from the subnet, and [1] counts the segments to the subnet. An
 * opened or closed flow is counted for the subnets of both endpoints.
 */
struct flow_counters {
    u32 retransmitted[2];
    u32 out_of_order[2];
    u32 zero_window[2];
    u32 opened[OPENINGS];
    u32 closed[CLOSINGS];
};

BPF_F_TABLE("array", u32, struct flow_counters, flow_counters, SLOTS, BPF_F_MMAPABLE);
