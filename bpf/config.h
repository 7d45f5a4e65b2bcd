/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The compile-time constants of the program, each with its unit and default. BCC compiles the program when the agent
 * starts, and the agent passes these constants as -DNAME=value (otel_epping/kernel/config.py). METHODS is in methods.h.
 */
#pragma once

/* Slots for subnets. The overflow slot is an additional one. */
#ifndef MAX_SUBNETS
#define MAX_SUBNETS 16384
#endif

/* Entries of the flow table (flow_table.h). */
#ifndef MAX_FLOWS
#define MAX_FLOWS 80000
#endif

/* An odd number, random at each start (hash.h). */
#ifndef HASH_KEY
#define HASH_KEY 2177342782468422677
#endif

/* Bits of an IPv4 or IPv6 address that identify its subnet: 0 to 32, and 0 to 128. */
#ifndef PREFIX_V4
#define PREFIX_V4 24
#endif
#ifndef PREFIX_V6
#define PREFIX_V6 48
#endif

/* Minimum time in ns between the starts of two RTT samples of one flow and direction. 0: no minimum. */
#ifndef SAMPLE_INTERVAL_NS
#define SAMPLE_INTERVAL_NS 100000000
#endif

/* Maximum time in ns that a packet waits for its reply. A later reply gives no RTT. */
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

/* The highest possible CPU number plus one. Tables per CPU have this many rows for each entry. */
#ifndef CPUS
#define CPUS 1
#endif

/* 1: measure the packets inside of tunnels instead of the tunnel's own packets (tunnel.h). */
#ifndef TUNNELS
#define TUNNELS 0
#endif

/* 1: recognize packets that are seen twice, in a capture or on a mirror port (copies.h). */
#ifndef COPIES
#define COPIES 0
#endif

/* 1: report each RTT and each flow that opens or closes to user space, too (events.h). */
#ifndef EVENTS
#define EVENTS 0
#endif

/* 1: take the time from the packet (BPF_PROG_TEST_RUN, for captures and tests). 0: take it from the kernel's clocks. */
#ifndef PACKET_CLOCK
#define PACKET_CLOCK 0
#endif

/*
 * The value that the program writes into skb->mark of a malformed packet, with PACKET_CLOCK only. User space knows
 * which packets of a capture are whole. The mark distinguishes a malformed packet from one whose headers the snap
 * length cut off (otel_epping/replay/replayer.py). On an interface the program changes no packet.
 */
#define MALFORMED_MARK 1
