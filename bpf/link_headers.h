/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Parses the headers between the Ethernet header and the network header. Link headers may follow one another in any
 * order. docs/links.md lists the headers.
 *
 * To add a header of fixed length that ends with the EtherType of the next header, add a row to EACH_FIXED_HEADER. For
 * any other header, add a case to read_link_header().
 */
#pragma once

#include <asm/byteorder.h>
#include <linux/if_ether.h>

#include "packet.h"

/* The maximum number of link headers of a packet. A packet with more link headers counts as non-IP. */
#define LINK_HEADERS 8

/*
 * Each row has the EtherType of a header, and the number of header bytes that follow the EtherType. The last two bytes
 * of the header are the EtherType of the next header.
 */
#define EACH_FIXED_HEADER(ROW)                                                               \
    ROW(0x22e9, 4)  /* congestion notification tag, IEEE 802.1Qau */                         \
    ROW(0x6558, 14) /* an Ethernet frame, RFC 1701 */                                        \
    ROW(0x8100, 4)  /* IEEE 802.1Q */                                                        \
    ROW(0x8874, 6)  /* Broadcom's switch tag, Linux net/dsa/tag_brcm.c */                    \
    ROW(0x88a8, 4)  /* IEEE 802.1ad */                                                       \
    ROW(0x88e7, 18) /* backbone service instance tag, and an Ethernet frame, IEEE 802.1ah */ \
    ROW(0x8903, 16) /* Cisco FabricPath tag, and an Ethernet frame */                        \
    ROW(0x8909, 8)  /* Cisco MetaData tag with a security group, draft-smith-kandula-sxp */  \
    ROW(0x8926, 6)  /* Cisco VN-Tag */                                                       \
    ROW(0x892f, 6)  /* HSR, IEC 62439-3 */                                                   \
    ROW(0x893b, 4)  /* fine-grained label of TRILL, RFC 7172 */                              \
    ROW(0x893f, 8)  /* E-tag, IEEE 802.1BR */                                                \
    ROW(0x9100, 4)  /* old EtherType of 802.1ad, in use before 0x88a8 */                     \
    ROW(0x9200, 4)  /* used for 802.1ad, like 0x9100 */                                      \
    ROW(0x9300, 4)  /* used for 802.1ad, like 0x9100 */                                      \
    ROW(0xdada, 8)  /* Marvell's switch tag, Linux net/dsa/tag_dsa.c */                      \
    ROW(0xdadb, 4)  /* 802.1Q as a switch tag, Linux net/dsa/tag_8021q.c */                  \
    ROW(0xf1c1, 6)  /* redundancy tag, IEEE 802.1CB */

#define ETH_P_LLC_JUMBO 0x8870 /* LLC in a frame that is too long for the length field of 802.3 */
#define ETH_P_TRILL 0x22f3
#define ETH_P_BATMAN_ADVANCED 0x4305
#define ETH_P_REALTEK_TAG 0x8899
#define ETH_P_MACSEC_TAG 0x88e5
#define ETH_P_NSH_BASE 0x894f
#define ETH_P_ARISTA 0xd28b

#define PPP_IP 0x0021
#define PPP_IPV6 0x0057
#define PPP_MPLS 0x0281
#define PPP_MPLS_MULTICAST 0x0283
#define PPP_COMPRESSED 0x01 /* if the first byte is odd, the protocol field is one byte long: RFC 1661 6.5 */
#define MPLS_BOTTOM_OF_STACK 0x01
#define MPLS_BYTES 4
#define LLC_SNAP 0xaaaa03000000 /* SNAP with organization 0: an EtherType follows (IEEE 802) */
#define SNAP_BRIDGED 0x0000f8   /* SNAP with organization 0x0000f8: an EtherType follows (IEEE 802.1H) */
#define SNAP_CISCO 0x00000c
#define LLC_IP 0x060603
#define ISL_BYTES 12 /* number of ISL bytes after the 802.3 header */
#define MACSEC_ENCRYPTED 0x0c
#define MACSEC_HAS_CHANNEL 0x20 /* if this bit is set, the tag has a channel identifier of 8 bytes */
#define ARISTA_SHORTER 0x20     /* if this bit is set, the header is 2 bytes shorter */
#define TRILL_BYTES 6
#define NSH_MIN_BYTES 8
#define BATMAN_VERSION 15

/* The first bytes after an EtherType. */
struct link_header {
    union {
        u8 bytes[8];
        __be16 words[4];
        __be64 all;
    };
};

static __always_inline u64 be16_at(const struct link_header *header, u32 place)
{
    return __be16_to_cpu(header->words[place]);
}

/*
 * Reads a PPPoE header (RFC 2516). The length field contains the number of bytes from the protocol field to the end of
 * the payload. Later bytes are padding.
 */
static __always_inline void read_pppoe(const struct link_header *header, volatile struct link_step *step)
{
    bool is_compressed = header->bytes[6] & PPP_COMPRESSED;
    u64 protocol = is_compressed ? header->bytes[6] : be16_at(header, 3);

    step->total_bytes = be16_at(header, 2) + 6;
    step->header_bytes = is_compressed ? 7 : 8;
    if (protocol == PPP_IP)
        step->next_ethertype = ETH_P_IP;
    else if (protocol == PPP_IPV6)
        step->next_ethertype = ETH_P_IPV6;
    else if (protocol == PPP_MPLS || protocol == PPP_MPLS_MULTICAST)
        step->next_ethertype = ETH_P_MPLS_UC;
    else
        step->header_bytes = 0;
}

/*
 * Reads an LLC header (IEEE 802.2). The length field of 802.3 contains the number of bytes after the field. For LLC
 * without a length, the kernel sets the EtherType to ETH_P_802_2.
 */
static __always_inline void read_llc(const struct link_header *header, u16 length, volatile struct link_step *step)
{
    u64 all = __be64_to_cpu(header->all);

    step->total_bytes = length <= ETH_DATA_LEN && length != ETH_P_802_2 ? length : 0;
    if (all >> 16 == LLC_SNAP || all >> 16 == (LLC_SNAP | SNAP_BRIDGED)) {
        step->header_bytes = 8;
    } else if (all >> 16 == (LLC_SNAP | SNAP_CISCO)) {
        step->header_bytes = ISL_BYTES + ETH_HLEN;
    } else if (all >> 40 == LLC_IP) {
        step->header_bytes = 3;
        step->next_ethertype = ETH_P_IP;
    }
}

/*
 * Reads an NSH header (RFC 8300). An NSH header consists of a base header, a service path header and context headers.
 */
static __always_inline void read_nsh(const struct link_header *header, volatile struct link_step *step)
{
    step->header_bytes = (be16_at(header, 0) & 0x3f) * 4;
    if (step->header_bytes < NSH_MIN_BYTES) {
        step->header_bytes = 0;
        return;
    }
    switch (header->bytes[3]) {
    case 1:
        step->next_ethertype = ETH_P_IP;
        break;
    case 2:
        step->next_ethertype = ETH_P_IPV6;
        break;
    case 3:
        step->header_bytes += ETH_HLEN;
        break;
    case 4:
        step->next_ethertype = ETH_P_NSH_BASE;
        break;
    case 5:
        step->next_ethertype = ETH_P_MPLS_UC;
        break;
    default:
        step->header_bytes = 0;
    }
}

/*
 * Returns the total length of a batman-adv header (Linux uapi/linux/batadv_packet.h) and the Ethernet header after it.
 * Returns 0 if the packet is not a unicast or broadcast packet.
 */
static __always_inline u64 batman_bytes(const struct link_header *header)
{
    if (header->bytes[1] != BATMAN_VERSION)
        return 0;
    switch (header->bytes[0]) {
    case 0x01:
        return 14 + ETH_HLEN;
    case 0x40:
        return 10 + ETH_HLEN;
    case 0x42:
        return 18 + ETH_HLEN;
    default:
        return 0;
    }
}

/*
 * Returns whether the bytes at `offset` look like an Ethernet header, that is, contain an EtherType that is common in
 * frames with IP packets.
 */
static __always_inline bool begins_frame(struct __sk_buff *skb, u64 offset)
{
    __be16 protocol = 0;

    bpf_skb_load_bytes(skb, offset + ETH_HLEN - sizeof(protocol), &protocol, sizeof(protocol));
    return protocol == __cpu_to_be16(ETH_P_IP) || protocol == __cpu_to_be16(ETH_P_IPV6) ||
           protocol == __cpu_to_be16(ETH_P_8021Q) || protocol == __cpu_to_be16(ETH_P_8021AD) ||
           protocol == __cpu_to_be16(ETH_P_PPP_SES);
}

/*
 * Reads an MPLS label (RFC 3032). The last label does not contain the protocol of the data after the label. If the
 * first nibble of the data is 4 or 6, the data are an IP packet of this version (RFC 4928). Otherwise the data may be
 * an Ethernet frame, with or without a control word before the frame (RFC 4448). The first nibble of a control word is
 * 0.
 */
static __always_inline void read_label(struct __sk_buff *skb, const struct link_header *header,
                                       volatile struct link_step *step)
{
    u8 version = header->bytes[MPLS_BYTES] >> 4;

    step->header_bytes = MPLS_BYTES;
    if (!(header->bytes[2] & MPLS_BOTTOM_OF_STACK))
        step->next_ethertype = ETH_P_MPLS_UC;
    else if (version == 4)
        step->next_ethertype = ETH_P_IP;
    else if (version == 6)
        step->next_ethertype = ETH_P_IPV6;
    else if (begins_frame(skb, step->offset + MPLS_BYTES))
        step->header_bytes += ETH_HLEN;
    else if (!version && begins_frame(skb, step->offset + MPLS_BYTES + 4))
        step->header_bytes += 4 + ETH_HLEN;
    else
        step->header_bytes = 0;
}

/*
 * Fills in `step` for a header. `protocol` is the EtherType of this header, and `header` contains the first bytes of
 * this header. Returns false if the EtherType is unknown.
 */
static __always_inline bool read_link_header(struct __sk_buff *skb, u16 protocol, const struct link_header *header,
                                             volatile struct link_step *step)
{
    step->next_ethertype = 0;
    step->header_bytes = 0;
    step->total_bytes = 0;
    switch (protocol) {
#define ROW(ethertype, bytes)       \
    case ethertype:                 \
        step->header_bytes = bytes; \
        return true;
        EACH_FIXED_HEADER(ROW)
#undef ROW
    case 0 ... ETH_DATA_LEN:
    case ETH_P_LLC_JUMBO:
        read_llc(header, protocol, step);
        return true;
    case ETH_P_PPP_SES:
        read_pppoe(header, step);
        return true;
    case ETH_P_MPLS_UC:
    case ETH_P_MPLS_MC:
        read_label(skb, header, step);
        return true;
    case ETH_P_TRILL: /* RFC 6325 section 3: 5 bits contain the length of the options, in words of 4 bytes */
        step->header_bytes = TRILL_BYTES + (be16_at(header, 0) >> 6 & 0x1f) * 4 + ETH_HLEN;
        return true;
    case ETH_P_NSH_BASE:
        read_nsh(header, step);
        return true;
    case ETH_P_MACSEC_TAG: /* IEEE 802.1AE 9.3: the data are encrypted if bit E or bit C is set */
        if (!(header->bytes[0] & MACSEC_ENCRYPTED))
            step->header_bytes = 8 + (header->bytes[0] & MACSEC_HAS_CHANNEL) / 4;
        return true;
    case ETH_P_REALTEK_TAG: /* Linux net/dsa/tag_rtl4_a.c, tag_rtl8_4.c */
        step->header_bytes = header->bytes[0] >> 4 == 0xa ? 4 : header->bytes[0] == 0x04 ? 8 : 0;
        return true;
    case ETH_P_BATMAN_ADVANCED:
        step->header_bytes = batman_bytes(header);
        return true;
    case ETH_P_ARISTA: /* a timestamp that has 64 or 48 bits */
        if (header->words[0] == __cpu_to_be16(1))
            step->header_bytes = 14 - (header->bytes[3] & ARISTA_SHORTER) / 16;
        return true;
    default:
        return false;
    }
}

/*
 * Skips all headers between the Ethernet header and the network header. `bytes` is the length of the Ethernet header,
 * and `first` is the EtherType in the Ethernet header. Sets `bytes` to the offset of the network header, `version` to
 * the IP version, and `end` to the greatest offset at which the packet may end. Returns KIND_OTHER for an IP packet,
 * KIND_MALFORMED if a header is incomplete, and KIND_NON_IP otherwise.
 *
 * The function keeps the offset of the next header in a map, because the verifier does not know values in a map. If the
 * verifier knew the offset, or if the function used a pointer, the verifier would follow the rest of the program once
 * for each possible sequence of headers.
 */
static __always_inline enum packet_kind skip_link_headers(struct __sk_buff *skb, struct packet *packet, u16 first,
                                                          u64 *bytes, u64 *end, u64 *version)
{
    volatile struct link_step *step = &packet->link;

    step->offset = *bytes;
    step->end = *end;
    step->ethertype = first;
#pragma clang loop unroll(disable)
    for (int i = 0; i <= LINK_HEADERS; i++) {
        struct link_header header;
        u16 protocol = step->ethertype;
        __be16 following;

        if (protocol == ETH_P_IP || protocol == ETH_P_IPV6) {
            *version = protocol == ETH_P_IP ? 4 : 6;
            *bytes = step->offset;
            *end = step->end;
            return KIND_OTHER;
        }

        /* A header and the IP packet after the header are together at least 8 bytes long. If the helper fails, it fills
         * `header` with zeros. */
        bool is_cut = bpf_skb_load_bytes(skb, step->offset, &header, sizeof(header));

        if (!read_link_header(skb, protocol, &header, step))
            return KIND_NON_IP;
        if (is_cut)
            return KIND_MALFORMED;
        if (!step->header_bytes)
            return KIND_NON_IP;
        /* In an aggregate (GRO, GSO), the length field contains the length of a single packet of the aggregate. */
        if (step->total_bytes && step->offset + step->total_bytes < step->end && !skb->gso_segs)
            step->end = step->offset + step->total_bytes;
        step->offset += step->header_bytes;
        step->ethertype = step->next_ethertype;
        if (!step->ethertype) {
            if (bpf_skb_load_bytes(skb, step->offset - sizeof(following), &following, sizeof(following)))
                return KIND_MALFORMED;
            step->ethertype = __be16_to_cpu(following);
        }
    }
    return KIND_NON_IP;
}
