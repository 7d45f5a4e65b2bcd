/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * otel-epping's kernel program: watches the packets of an interface, both ways, matches each with its reply, and counts
 * the round-trip time into the histogram of the subnet that answered. It never changes, delays or drops a packet, and
 * tells user space nothing but what stands in the maps.
 *
 * A packet's way is observe(), from top to bottom.
 */
#include <linux/pkt_cls.h>

#include "config.h"
#include "maps.h"
#include "clock.h"
#include "packet.h"
#include "parse.h"
#include "traffic.h"
#include "subnet.h"
#include "slot_cache.h"
#include "flow.h"
#include "tcp_analysis.h"
#include "histogram.h"
#include "events.h"
#include "context.h"
#include "flow_events.h"
#include "rtt.h"
#include "tcp_counters.h"
#include "tcp_method_choice.h"
#include "tcp_timestamp.h"
#include "tcp_sequence.h"
#include "tcp_handshake.h"
#include "icmp_echo.h"
#include "dns.h"
#include "quic_handshake.h"
#include "copies.h"

#define INTERFACE_PROBES 4

/* What is known of an interface. User space fills the table before it attaches us, the row for all others first. */
static __always_inline struct interface *find_interface(u32 ifindex)
{
    for (u32 i = 0; i < INTERFACE_PROBES; i++) {
        struct interface *interface = interfaces_row((ifindex + i) & (INTERFACE_ROWS - 1));

        if (interface->ifindex == ifindex)
            return interface;
        rare();
    }
    return interfaces_row(UNKNOWN_INTERFACE_ROW);
}

/* A row per method of measuring: what it is called in enum method, its function, and the packets it wants to see. */
#define EACH_METHOD(ROW)                        \
    ROW(METHOD_ICMP_ECHO, icmp_echo, KIND_ICMP) \
    ROW(METHOD_DNS, dns, KIND_UDP)              \
    ROW(METHOD_QUIC_HANDSHAKE, quic_handshake, KIND_UDP)
/* Those of TCP, which see all of its segments. */
#define EACH_TCP_METHOD(ROW)                 \
    ROW(METHOD_TCP_TIMESTAMP, tcp_timestamp) \
    ROW(METHOD_TCP_SEQUENCE, tcp_sequence)   \
    ROW(METHOD_TCP_HANDSHAKE, tcp_handshake)

#define MEASURE(number, measure, its_kind)          \
    if (METHODS & 1U << number && kind == its_kind) \
        measure(&seen);
#define MEASURE_TCP(number, measure) \
    if (METHODS & 1U << number)      \
        measure(seen, plain);

/* What a TCP segment means for its flow, and for the methods of TCP; `plain` as in transport_headers.h. */
static __always_inline void follow_segment(struct observation *seen, bool plain, u32 destination_slot, u64 now_ns)
{
    if (seen->has_flow) {
        if ((flags_of(seen->packet, plain) & (TCP_SYN | TCP_RST)) == TCP_SYN)
            begin_timing(seen);
        seen->segment = follow_sequence(&seen->flow, seen->packet, plain, now_ns);
        count_conduct(seen, destination_slot, plain, now_ns);
        if (seen->segment >= SEGMENT_RETRANSMITTED) {
            rare();
            doubt_tsval(seen);
        }
    }
    EACH_TCP_METHOD(MEASURE_TCP)
}

static __always_inline void observe(struct __sk_buff *skb, u64 ingress)
{
    struct interface *interface = find_interface(skb->ifindex);
    const struct control *told = what_is_told();
    u64 cpu = bpf_get_smp_processor_id();
    struct packet *packet = packets_row(cpu);

    struct observation seen = {
        .skb = skb,
        .packet = packet,
        .counters = counters_of(interface->number, cpu),
        .interface = interface->id,
        .source_side = interface->side[ingress],
        .ingress = ingress,
    };
    u32 destination_side = interface->side[ingress ^ 1], destination_slot;
    struct interface_counters *counters = seen.counters;
    u64 kind = parse_packet(skb, interface->link_header, packet);

    if (kind == KINDS)
        return;

    struct tally tally = wire_tally(skb, packet->headers, ingress);

    if (kind & KIND_STARTS_LATER) {
        tally.bytes -= tally.packets * packet->start;
        kind -= KIND_STARTS_LATER;
    }

    u64 kind_row = bounded(kind, KINDS); /* apart, for the compiler has code of its own for each kind that it knows */

    add(ingress ? &counters->received[kind_row] : &counters->transmitted[kind_row], tally);
    if (PACKET_CLOCK && kind == KIND_MALFORMED)
        skb->mark = MALFORMED_MARK;
    if (kind == KIND_NON_IP || kind == KIND_MALFORMED)
        return;
    counters->ecn[bounded(packet->ecn, ECN_CODEPOINTS)] += tally.packets;
    packet->answers = 0;

    u64 now_ns = kind == KIND_TCP ? coarse_now(skb) : 0;

    seen.has_flow = now_ns && find_flow(packet, seen.interface, seen.source_side, now_ns, counters, &seen.flow);
#if COPIES
    if (is_copy(&seen, kind)) {
        counters->duplicates += tally.packets;
        return;
    }
#endif
    if (seen.has_flow) {
        seen.source_slot = cached_slot(&seen.flow.flow->cached[seen.flow.source], told->epoch, packet->source,
                                       packet->family, seen.interface, seen.source_side, skb, counters);
        destination_slot = cached_slot(&seen.flow.flow->cached[!seen.flow.source], told->epoch, packet->destination,
                                       packet->family, seen.interface, destination_side, skb, counters);
    } else {
        slots_of_pair(packet, cpu, seen.interface, seen.source_side, destination_side, told->epoch, skb, counters,
                      &seen.source_slot, &destination_slot);
    }
    count_traffic(cpu, seen.source_slot, destination_slot, class_of(kind, packet), packet->ecn, tally);
    if (seen.has_flow && is_plain(packet)) {
        follow_segment(&seen, true, destination_slot, now_ns);
    } else if (kind == KIND_TCP) {
        follow_segment(&seen, false, destination_slot, now_ns);
    } else {
        EACH_METHOD(MEASURE)
    }
#if EVENTS
    watch_packet(&seen, kind);
#endif
    if (packet->answers) {
        rare();
        record_rtts(&seen);
    }
#if EVENTS
    watch_end(&seen);
#endif
}

/*
 * Of ingress and egress, which one this is. Compiling takes longer than all else at start, so the program is compiled
 * once and loaded twice: the loader puts 1 or 0 in the place of DIRECTION (otel_epping/kernel/bytecode.py), and the
 * verifier leaves out what is for the other direction.
 */
static __always_inline u64 is_ingress(void)
{
    u64 direction;

    asm volatile("%0 = %1" : "=r"(direction) : "i"(DIRECTION));
    return direction;
}

int epping(struct __sk_buff *skb)
{
    observe(skb, is_ingress());
    return TC_ACT_UNSPEC; /* whoever comes next on the hook decides */
}
