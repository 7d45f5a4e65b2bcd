# SPDX-License-Identifier: Apache-2.0
"""Defines the supported link types, and converts packets to Ethernet, because the kernel program reads only Ethernet.

To support another link type, add a row to LINK_TYPES. A row has the number and the name of the link type, and a
function that returns the size of each packet's link header and the EtherType of the payload. `make docs` generates
docs/links.md from LINK_TYPES and UNSUPPORTED.

The conversion writes an Ethernet header with zero addresses directly before the network header, so no packet is copied.
The Ethernet header overwrites the link header. If the link header is shorter than the Ethernet header, the Ethernet
header also overwrites a part of the record header, which is no longer needed. The length of a packet is counted as if
the packet had an Ethernet header in place of its link header.

Source of the layouts: https://www.tcpdump.org/linktypes.html
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from otel_epping.replay.capture import common_headers, lan_headers, wan_headers, wifi_headers
from otel_epping.replay.capture.packet_batch import Int64Array, PacketBatch
from otel_epping.replay.capture.packet_view import ETHERNET_HEADER, HeaderReader, LinkHeaders, PacketView, only_if

ETHERNET = 1


class LinkType(NamedTuple):
    """A supported link type: the name in docs/links.md, and the function that reads the link headers."""

    name: str
    read: HeaderReader


def _enclosed(view: PacketView, link_types: Int64Array) -> LinkHeaders:
    """Reads packets of different link types. A packet of an unsupported link type gets the EtherType UNKNOWN."""
    sizes, ethertypes, trailers = view.zeros(), view.zeros(), view.zeros()
    for number in np.unique(link_types).tolist():
        # A link type in _ENVELOPES must not contain another link type in _ENVELOPES.
        if number in LINK_TYPES and number not in _ENVELOPES:
            of_type = link_types == number
            headers = LINK_TYPES[number].read(view.take(of_type))
            sizes[of_type], ethertypes[of_type], trailers[of_type] = headers.sizes, headers.ethertypes, headers.trailers
    return LinkHeaders(sizes, ethertypes, trailers)


def _ppi(view: PacketView) -> LinkHeaders:
    """Reads a PPI header: version, flags, header length, link type of the payload."""
    size = view.little(2, 2)
    return _enclosed(view.skip(size), view.little(4, 4)).preceded_by(size)


def _pktap(view: PacketView) -> LinkHeaders:
    """Reads a PKTAP header of macOS: header length, record type (1 is a packet), link type of the payload."""
    size = view.little(0, 4)
    return only_if(view.little(4, 4) == 1, _enclosed(view.skip(size), view.little(8, 4)).preceded_by(size))


# Link types whose headers contain the link type of the payload.
_ENVELOPES = (192, 258)
LINK_TYPES: dict[int, LinkType] = {
    0: LinkType("BSD loopback, NULL", lan_headers.null),
    ETHERNET: LinkType("Ethernet", common_headers.ethernet),
    6: LinkType("Token Ring, IEEE 802.5", lan_headers.token_ring),
    7: LinkType("ARCNET", lan_headers.arcnet),
    8: LinkType("SLIP", lan_headers.slip),
    9: LinkType("PPP", wan_headers.ppp),
    10: LinkType("FDDI", lan_headers.fddi),
    12: LinkType("raw IP, DLT_RAW", common_headers.raw),
    14: LinkType("raw IP, DLT_RAW on OpenBSD", common_headers.raw),
    50: LinkType("PPP in HDLC-like framing", wan_headers.ppp),
    51: LinkType("PPPoE", lan_headers.pppoe),
    99: LinkType("Symantec Enterprise Firewall", lan_headers.symantec),
    100: LinkType("ATM, RFC 2684", wan_headers.atm),
    101: LinkType("raw IP", common_headers.raw),
    104: LinkType("Cisco HDLC", wan_headers.ppp),
    105: LinkType("IEEE 802.11", wifi_headers.frame),
    106: LinkType("ATM, Linux classical IP", wan_headers.atm),
    107: LinkType("Frame Relay", wan_headers.frame_relay),
    108: LinkType("OpenBSD loopback, LOOP", lan_headers.null),
    109: LinkType("OpenBSD IPsec, enc", lan_headers.enc),
    113: LinkType("Linux cooked, SLL", lan_headers.cooked),
    117: LinkType("BSD packet filter log, pflog", lan_headers.pflog),
    119: LinkType("IEEE 802.11 with Prism header", wifi_headers.prism),
    122: LinkType("IP over Fibre Channel, RFC 2625", lan_headers.fibre_channel),
    123: LinkType("SunATM", wan_headers.sun_atm),
    127: LinkType("IEEE 802.11 with radiotap header", wifi_headers.radiotap),
    129: LinkType("Linux ARCNET", lan_headers.arcnet_linux),
    138: LinkType("macOS IP over IEEE 1394", lan_headers.firewire),
    143: LinkType("DOCSIS", wan_headers.docsis),
    163: LinkType("IEEE 802.11 with AVS header", wifi_headers.prism),
    166: LinkType("PPP, as pppd captures it", wan_headers.pppd),
    178: LinkType("Juniper, Ethernet", wan_headers.juniper(common_headers.ethernet)),
    179: LinkType("Juniper, PPP", wan_headers.juniper(wan_headers.ppp)),
    180: LinkType("Juniper, Frame Relay", wan_headers.juniper(wan_headers.frame_relay)),
    181: LinkType("Juniper, Cisco HDLC", wan_headers.juniper(wan_headers.ppp)),
    192: LinkType("PPI, followed by another link type", _ppi),
    197: LinkType("Endace ERF", lan_headers.erf),
    204: LinkType("PPP with direction", common_headers.after(1, wan_headers.ppp)),
    205: LinkType("Cisco HDLC with direction", common_headers.after(1, wan_headers.ppp)),
    206: LinkType("Frame Relay with direction", common_headers.after(1, wan_headers.frame_relay)),
    219: LinkType("MPLS", lan_headers.mpls),
    226: LinkType("Solaris ipnet", lan_headers.ipnet),
    228: LinkType("raw IPv4", common_headers.raw),
    229: LinkType("raw IPv6", common_headers.raw),
    239: LinkType("Linux NFLOG", lan_headers.nflog),
    240: LinkType("netANALYZER", common_headers.after(4, common_headers.with_checksum(common_headers.ethernet))),
    241: LinkType("netANALYZER, with preamble", lan_headers.netanalyzer_transparent),
    242: LinkType("IP over InfiniBand", lan_headers.infiniband),
    258: LinkType("macOS PKTAP, followed by another link type", _pktap),
    274: LinkType("Ethernet with preamble, IEEE 802.3br", lan_headers.preamble),
    276: LinkType("Linux cooked, SLL2", lan_headers.cooked_v2),
    281: LinkType("Ethernet with a Broadcom switch tag", common_headers.after(4, common_headers.ethernet)),
    282: LinkType("Ethernet preceded by a Broadcom switch tag", common_headers.after(4, common_headers.ethernet)),
    284: LinkType("Ethernet with a Marvell switch tag, DSA", common_headers.after(4, common_headers.ethernet)),
    285: LinkType("Ethernet with a Marvell switch tag, EDSA", common_headers.after(8, common_headers.ethernet)),
}
# Known link types that do not carry IP, or that carry IP in an unsupported form. The names are shown in error messages.
UNSUPPORTED = {
    3: "AX.25",
    102: "BSD/OS SLIP",
    103: "BSD/OS PPP",
    114: "LocalTalk",
    118: "Cisco IOS internal",
    120: "Aironet IEEE 802.11",
    121: "Siemens HiPath HDLC",
    128: "TZSP",
    130: "Juniper MLPPP",
    131: "Juniper MLFR",
    132: "Juniper IPsec",
    133: "Juniper GGSN",
    134: "Juniper MFR",
    135: "Juniper ATM2",
    136: "Juniper services",
    137: "Juniper ATM1",
    139: "SS7 MTP2 with header",
    140: "SS7 MTP2",
    141: "SS7 MTP3",
    142: "SS7 SCCP",
    144: "Linux IrDA",
    **{147 + number: f"USER{number}" for number in range(16)},
    165: "BACnet MS/TP",
    167: "Juniper PPPoE",
    169: "GPRS LLC",
    170: "GFP-T",
    171: "GFP-F",
    177: "Linux LAPD",
    182: "Multilink Frame Relay",
    183: "Juniper voice",
    187: "Bluetooth HCI",
    189: "Linux USB",
    190: "CAN",
    191: "Linux IEEE 802.15.4",
    194: "Juniper ISM",
    195: "IEEE 802.15.4",
    196: "SITA",
    199: "IPMB",
    200: "Juniper secure tunnel",
    201: "Bluetooth HCI",
    202: "AX.25 KISS",
    203: "LAPD",
    207: "LAPB",
    209: "I2C",
    210: "FlexRay",
    212: "LIN",
    215: "IEEE 802.15.4",
    216: "Linux input events",
    220: "Linux USB",
    224: "Fibre Channel FC-2",
    225: "Fibre Channel FC-2",
    227: "Linux CAN",
    230: "IEEE 802.15.4",
    231: "D-Bus",
    235: "DVB-CI",
    236: "MUX27010",
    237: "STANAG 5066",
    243: "MPEG-2 transport stream",
    244: "NG4T",
    245: "NFC LLCP",
    247: "InfiniBand",
    248: "SCTP",
    249: "Windows USB",
    250: "RTAC serial",
    251: "Bluetooth LE",
    252: "Wireshark upper PDU",
    253: "Netlink",
    254: "Linux Bluetooth monitor",
    255: "Bluetooth",
    256: "Bluetooth LE",
    257: "PROFIBUS",
    259: "EPON",
    260: "IPMI",
    261: "Z-Wave",
    264: "ISO 14443",
    265: "Radio Data System (RDS)",
    266: "macOS USB",
    268: "SDLC",
    270: "LoRaTap",
    271: "Linux vsock",
    272: "Nordic Bluetooth LE",
    273: "DOCSIS 3.1 XRA",
    275: "DisplayPort AUX",
    278: "OpenVizsla USB",
    279: "EBHSCR",
    280: "VPP dispatch trace",
    283: "IEEE 802.15.4",
    286: "ELEE",
    287: "Z-Wave serial",
    288: "USB",
    289: "ATSC",
    290: "Event Tracing for Windows",
    292: "ZBOSS NCP",
    293: "USB, low speed",
    294: "USB, full speed",
    295: "USB, high speed",
    299: "FiRa UCI",
}
SUPPORTED = tuple(LINK_TYPES)
CURE = (
    "capture with another link type (`tcpdump -L` lists the link types, `tcpdump -y` selects one), "
    "or remove the link header with `editcap -C BYTES -T ether`"
)


def describe(link_type: int) -> str:
    """Returns the number of an unsupported link type, and the name of the link type if UNSUPPORTED contains it."""
    return f"{link_type} ({UNSUPPORTED[link_type]})" if link_type in UNSUPPORTED else str(link_type)


def to_ethernet(batch: PacketBatch) -> PacketBatch:
    """Replaces the link headers by Ethernet headers in the buffer of the batch, and returns a batch of the new packets.

    All link types must be in SUPPORTED. If a packet is shorter than its link header, the captured length in the result
    is less than the length of an Ethernet header.
    """
    starts, captured, original = batch.starts.copy(), batch.captured.copy(), batch.original.copy()
    for number in np.unique(batch.link_types).tolist():
        if number == ETHERNET:
            continue
        of_type = batch.link_types == number
        headers = LINK_TYPES[number].read(
            PacketView(batch.buffer, starts[of_type], starts[of_type] + captured[of_type])
        )
        starts[of_type] += headers.sizes - ETHERNET_HEADER
        original[of_type] -= headers.sizes - ETHERNET_HEADER + headers.trailers
        captured[of_type] -= headers.sizes - ETHERNET_HEADER
        # The packet may lack the trailer, because the snap length may have cut it off.
        without_trailer = np.minimum(captured[of_type], original[of_type])
        captured[of_type] = np.where(np.greater(headers.trailers, 0), without_trailer, captured[of_type])
        # If a packet is shorter than its link header, no Ethernet header is written, because the header would overwrite
        # bytes of the next packet.
        fits = captured[of_type] >= ETHERNET_HEADER
        ethernet = np.zeros((np.count_nonzero(fits), ETHERNET_HEADER), np.uint8)
        ethertypes = headers.ethertypes[fits]
        ethernet[:, -2], ethernet[:, -1] = ethertypes >> 8, ethertypes & 0xFF
        batch.buffer[starts[of_type][fits][:, None] + np.arange(ETHERNET_HEADER)] = ethernet
    return replace(
        batch, starts=starts, captured=captured, original=original, link_types=np.full_like(starts, ETHERNET)
    )
