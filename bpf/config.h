/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The compile-time constants of the program, each with its unit and default. BCC compiles the program when the agent
 * starts, and the agent passes these constants as -DNAME=value (otel_epping/kernel/config.py). The constant METHODS is
 * in methods.h.
 */
#pragma once

/* Number of slots: each combination of subnet, interface and side needs a slot. The shared slots are not included. */
#ifndef MAX_SLOTS
#define MAX_SLOTS 34816
#endif

/* Number of histograms: each combination of slot and method with an RTT needs a histogram. */
#ifndef MAX_HISTOGRAMS
#define MAX_HISTOGRAMS 49152
#endif

/* Number of blocks. A block stores 16 adjacent buckets of a histogram, and is needed only if an RTT was counted in
 * these buckets. */
#ifndef MAX_BLOCKS
#define MAX_BLOCKS 122880
#endif

/* Number of entries of the flow table (flow_table.h). */
#ifndef MAX_FLOWS
#define MAX_FLOWS 80000
#endif

/* The slot cache of each CPU has 2^SLOT_CACHE_BITS rows (slot_cache.h). Named networks need more bits. */
#ifndef SLOT_CACHE_BITS
#define SLOT_CACHE_BITS 12
#endif

/* An odd number that is chosen at random at each start (hash.h). */
#ifndef HASH_KEY
#define HASH_KEY 2177342782468422677
#endif

/* Number of leading bits of an address that identify its subnet: 0 to 32 for IPv4, 0 to 128 for IPv6. */
#ifndef PREFIX_V4
#define PREFIX_V4 24
#endif
#ifndef PREFIX_V6
#define PREFIX_V6 48
#endif

/* Minimum time in ns between the starts of two RTT samples in one direction of a flow. 0: no minimum. */
#ifndef SAMPLE_INTERVAL_NS
#define SAMPLE_INTERVAL_NS 100000000
#endif

/* Maximum time in ns that a packet waits for its reply. The program ignores a reply that arrives later. */
#ifndef MAX_AGE_NS
#define MAX_AGE_NS 10000000000
#endif

/* Scale of the exponential histograms (0 to 6), and the number of buckets from 1 us to 64 s at that scale. */
#ifndef SCALE
#define SCALE 4
#endif
#ifndef BUCKETS
#define BUCKETS 415
#endif

/* Time in ns between two ticks of the kernel's timer. */
#ifndef TICK_NS
#define TICK_NS 4000000
#endif

/* The highest possible CPU number plus one. A table with counts per CPU has CPUS rows for each slot or interface. */
#ifndef CPUS
#define CPUS 1
#endif

/* 1: measure the packets inside tunnels instead of the outer packets (tunnel.h). */
#ifndef TUNNELS
#define TUNNELS 0
#endif

/* 1: recognize a packet that a capture or a mirror port contains twice (copies.h). */
#ifndef COPIES
#define COPIES 0
#endif

/* 1: also report each RTT, and each flow that opens or closes, to user space as an event (events.h). */
#ifndef EVENTS
#define EVENTS 0
#endif

/* 1: look up the named network of an address (networks.h). */
#ifndef NETWORKS
#define NETWORKS 0
#endif

/* The maximum number of prefixes of all named networks together. */
#ifndef MAX_PREFIXES
#define MAX_PREFIXES 100000
#endif

/* 1: an IPv6 address of this kind counts for the IPv4 address inside it (embedded_ipv4.h). */
#ifndef EMBEDDED_6TO4
#define EMBEDDED_6TO4 0
#endif
#ifndef EMBEDDED_TEREDO
#define EMBEDDED_TEREDO 0
#endif
#ifndef EMBEDDED_MAPPED
#define EMBEDDED_MAPPED 0
#endif

/* Applies the macro PREFIX(first half, second half, length) to each prefix of a NAT64, longest prefix first. Each half
 * has 64 bits. An IPv6 address with such a prefix counts for the IPv4 address inside it. */
#ifndef EACH_NAT64
#define EACH_NAT64(PREFIX) PREFIX(0x64ff9b00000000ULL, 0x0ULL, 96)
#endif

/*
 * 1: take the time from the packet (BPF_PROG_TEST_RUN, for captures and tests). 0: take the time from the kernel's
 * clocks.
 */
#ifndef PACKET_CLOCK
#define PACKET_CLOCK 0
#endif

/*
 * If PACKET_CLOCK is 1, the program writes MALFORMED_MARK into skb->mark of a malformed packet. User space knows which
 * packets of a capture are complete. With the mark, user space can distinguish a malformed packet from a packet whose
 * headers were cut off by the snap length (otel_epping/replay/replayer.py). When the program is attached to an
 * interface, it does not change any packet.
 */
#define MALFORMED_MARK 1
