/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel program of otel-epping. The program reads the packets of an interface in both directions, matches each
 * packet with its reply, and adds the round-trip time to the histogram of the subnet from which the reply came. The
 * program does not change, delay or drop any packet. User space sees only the maps of this program.
 *
 * process_packet() shows the path of a packet from top to bottom.
 */
#include <linux/pkt_cls.h>

/* Constants, maps, clocks. */
#include "config.h"
#include "maps.h"
#include "flow_maps.h"
#include "clock.h"

/* The headers of a packet. */
#include "packet.h"
#include "parse.h"

/* The subnets and the flow of a packet, and the counters of subnets and flows. */
#include "context.h"
#include "traffic.h"
#include "subnet.h"
#include "slot_cache.h"
#include "flow.h"
#include "tcp_retransmission.h"
#include "tcp_counters.h"
#include "histogram.h"

/* RTTs and events. */
#include "events.h"
#include "flow_events.h"
#include "rtt.h"

/* The methods that measure RTTs. */
#include "tcp_method_choice.h"
#include "tcp_timestamp.h"
#include "tcp_sequence.h"
#include "tcp_handshake.h"
#include "icmp_echo.h"
#include "dns.h"
#include "quic_handshake.h"

/* Copies of packets that the program has already seen. */
#include "copies.h"

#define INTERFACE_PROBES 4

/*
 * Returns the row of an interface, or the last row if the interface is not in the table. User space fills the table
 * before it attaches the program, and fills the last row before all other rows.
 */
static __always_inline struct interface *find_interface(u32 ifindex)
{
    for (u32 i = 0; i < INTERFACE_PROBES; i++) {
        struct interface *interface = interfaces_row((ifindex + i) & (INTERFACE_ROWS - 1));

        if (interface->ifindex == ifindex)
            return interface;
        cold();
    }
    return interfaces_row(UNKNOWN_INTERFACE_ROW);
}

/*
 * Finds the slots of both endpoints. The slots of a TCP flow are in the flow table entry. For all other packets, the
 * slots are in the slot cache. With named networks, a look-up of a slot takes longer, so the program also searches the
 * slot cache for the slots of a new flow.
 */
static __always_inline void find_slots(struct context *ctx)
{
    u32 epoch = current_control()->epoch;

#if NETWORKS
    if (ctx->has_flow && has_cached_slots(ctx, epoch))
        return;
    if (ctx->has_flow)
        cold();
    find_cached_slots(ctx, epoch);
    if (ctx->has_flow)
        cache_slots(ctx, epoch);
#else
    if (ctx->has_flow) {
        u64 *cached = ctx->flow->cached_slots;

        ctx->source.slot = cached_slot(ctx, &ctx->source, &cached[ctx->source_index], epoch);
        ctx->destination.slot = cached_slot(ctx, &ctx->destination, &cached[!ctx->source_index], epoch);
    } else {
        find_cached_slots(ctx, epoch);
    }
#endif
}

/* Calls the function of a method if METHODS contains the method and the method needs packets of this kind. */
#define MEASURE(number, function, kind_of_method)         \
    if (METHODS & 1U << number && kind == kind_of_method) \
        function(ctx);

static __always_inline void measure(struct context *ctx, u64 kind)
{
    EACH_METHOD(MEASURE)
}

/* Updates the flow of a TCP segment, and calls the TCP methods. */
static __always_inline void process_segment(struct context *ctx)
{
    if (ctx->has_flow) {
        if ((flags_of(ctx) & (TCP_SYN | TCP_RST)) == TCP_SYN)
            reset_timing(ctx);
        ctx->segment = analyze_segment(ctx);
        count_tcp_events(ctx);
        if (ctx->segment >= SEGMENT_RETRANSMITTED) {
            cold();
            drop_retransmitted_tsval(ctx);
        }
    }
    measure(ctx, KIND_TCP);
}

static __always_inline void process_packet(struct __sk_buff *skb, u64 ingress)
{
    struct interface *interface = find_interface(skb->ifindex);
    u64 cpu = bpf_get_smp_processor_id();
    struct packet *packet = packets_row(cpu);
    struct interface_counters *counters = counters_of(interface->number, cpu);
    struct context ctx = {
        .skb = skb,
        .packet = packet,
        .counters = counters,
        .source = {.address = &packet->source, .side = interface->side[ingress]},
        .destination = {.address = &packet->destination, .side = interface->side[ingress ^ 1]},
        .cpu = cpu,
        .interface = interface->id,
        .ingress = ingress,
    };
    u64 kind = parse_packet(skb, interface->link_header, packet);

    if (kind == KINDS)
        return;

    struct tally tally = wire_tally(skb, packet->headers, ingress);

    if (kind & KIND_HAS_OFFSET) {
        tally.bytes -= tally.packets * packet->start_offset;
        kind -= KIND_HAS_OFFSET;
    }

    /* The comparisons below use `kind`, because the compiler does not know the value that bounded() returns. */
    u64 kind_row = bounded(kind, KINDS);

    add(ingress ? &counters->received[kind_row] : &counters->transmitted[kind_row], tally);
    if (PACKET_CLOCK && kind == KIND_MALFORMED)
        skb->mark = MALFORMED_MARK;
    if (kind == KIND_NON_IP || kind == KIND_MALFORMED)
        return;
    counters->ecn[bounded(packet->ecn, ECN_CODEPOINTS)] += tally.packets;
    packet->rtt_count = 0;

    ctx.now_ns = kind == KIND_TCP ? coarse_now(skb) : 0;
    ctx.has_flow = ctx.now_ns && find_flow(&ctx);
#if COPIES
    if (is_copy(&ctx, kind)) {
        counters->duplicates += tally.packets;
        return;
    }
#endif
    find_slots(&ctx);
    count_traffic(&ctx, class_of(kind, packet), tally);
#if COPIES
    /* From here, the verifier follows one path for all packets that are not copies. The single path saves up to 20 % of
     * the verifier's work. */
    ctx.now_ns = hide_from_verifier(packet, ctx.now_ns);
#endif

    /* process_segment() is compiled twice: see has_only_ack(). */
    if (ctx.has_flow && has_only_ack(packet)) {
        ctx.only_ack = true;
        process_segment(&ctx);
    } else if (kind == KIND_TCP) {
        ctx.only_ack = false;
        process_segment(&ctx);
    } else {
        measure(&ctx, kind);
    }
#if EVENTS
    /* From here, the verifier follows one path for all values of `side`. The single path saves 10 % of the verifier's
     * work. */
    ctx.source.side = hide_from_verifier(packet, ctx.source.side);
    track_event_flow(&ctx, kind);
#endif
    if (packet->rtt_count) {
        cold();
        record_rtts(&ctx);
    }
#if EVENTS
    close_event_flow(&ctx);
#endif
}

/*
 * Returns 1 on ingress and 0 on egress. At the start of the agent, the compilation takes longer than any other step. So
 * the agent compiles the program once and loads it twice, once for each direction. The loader replaces DIRECTION with 1
 * or 0 (otel_epping/kernel/load/bytecode.py), and the verifier removes the code of the other direction.
 */
static __always_inline u64 is_ingress(void)
{
    u64 direction;

    asm volatile("%0 = %1" : "=r"(direction) : "i"(DIRECTION));
    return direction;
}

int epping(struct __sk_buff *skb)
{
    process_packet(skb, is_ingress());
    return TC_ACT_UNSPEC; /* the next program on the hook decides what happens to the packet */
}
