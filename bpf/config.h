/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Every knob of the program, with its unit and its default. BCC compiles when the agent starts, so a knob is a
 * compile-time constant that the agent gives as -DNAME=value (otel_epping/kernel/config.py).
 */
#pragma once

/* Slots for subnets, the overflow slot not counted. */
#ifndef MAX_SUBNETS
#define MAX_SUBNETS 16384
#endif

/* Places for TCP flows; see flow_table.h. */
#ifndef MAX_FLOWS
#define MAX_FLOWS 80000
#endif

/* A random odd number; see hash.h. */
#ifndef HASH_KEY
#define HASH_KEY 2177342782468422677
#endif

/* Length of the prefix, in bits, that makes a subnet of an IPv4 or IPv6 address: 0 to 32, 0 to 128. */
#ifndef PREFIX_V4
#define PREFIX_V4 24
#endif
#ifndef PREFIX_V6
#define PREFIX_V6 48
#endif

/* Least time in ns between two RTTs begun in one flow and direction; 0 begins as many as can be remembered. */
#ifndef SAMPLE_INTERVAL_NS
#define SAMPLE_INTERVAL_NS 100000000
#endif

/* A timestamp that waited longer than this, in ns, for its reply never matches. */
#ifndef MAX_AGE_NS
#define MAX_AGE_NS 10000000000
#endif

/* Scale of the exponential histograms (0 to 6), and how many buckets it takes from 1 us to 64 s. */
#ifndef SCALE
#define SCALE 4
#endif
#ifndef BUCKETS
#define BUCKETS 415
#endif

/* Methods that measure: bit i for the i-th of enum method (maps.h); all of them. */
#ifndef METHODS
#define METHODS 63
#endif

/* Time between two ticks of the kernel's timer, in ns. */
#ifndef TICK_NS
#define TICK_NS 4000000
#endif

/* CPUs that may run the program: the highest possible number plus one. Counters per CPU have one row for each. */
#ifndef CPUS
#define CPUS 1
#endif

/* 1: what is inside of a tunnel is measured, and not the tunnel (tunnel.h). */
#ifndef TUNNELS
#define TUNNELS 0
#endif

/* 1: a packet may be seen twice on its way, in a capture or from a mirror port (copies.h). */
#ifndef COPIES
#define COPIES 0
#endif

/* 1: each RTT and each flow that opens or closes is reported to user space, too (events.h). */
#ifndef EVENTS
#define EVENTS 0
#endif

/* 1: the clock is the packet's own timestamp (BPF_PROG_TEST_RUN over captures and tests); 0: the kernel's. */
#ifndef PACKET_CLOCK
#define PACKET_CLOCK 0
#endif

/*
 * With the packet's clock, a malformed packet gets this mark. User space knows whether the packet was captured as a
 * whole, so it can tell a malformed packet from one whose headers the snap length cut off
 * (otel_epping/replay/replayer.py). On an interface the program changes no packet.
 */
#define MALFORMED_MARK 1
