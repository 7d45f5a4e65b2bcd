# SPDX-License-Identifier: Apache-2.0
"""Link types of captures, each turned into Ethernet framing, which is what the kernel program reads.

To read another link type, add a row to LINKS: its number, its name, and the function that tells how long the link
header of each packet is, and what is behind it. docs/links.md is made from these tables.

The link header is replaced by an Ethernet header with that for a type, and addresses of zeros; its bytes are written
just in front of the network header, over the old link header or the record's header, which nobody needs any more. So no
packet is copied, and a packet counts with the length that it has on an Ethernet.

Layouts: https://www.tcpdump.org/linktypes.html
"""

from typing import NamedTuple

import numpy as np

from otel_epping.replay.capture import framing, local, wide_area, wireless
from otel_epping.replay.capture.batch import Batch, Numbers
from otel_epping.replay.capture.view import ETHERNET_HEADER, Meaning, Reader, View, known

ETHERNET = 1


class Link(NamedTuple):
    """A link type that is read."""

    name: str
    read: Reader


def _inner(view: View, links: Numbers) -> Meaning:
    """Packets that each have a link type of their own. What has one that is not read is not IP."""
    sizes, ethertypes, trailers = view.zeros(), view.zeros(), view.zeros()
    for link in np.unique(links).tolist():
        # None of these headers is in another one of them.
        if link in LINKS and link not in _ENVELOPES:
            its = links == link
            meaning = LINKS[link].read(view.take(its))
            sizes[its], ethertypes[its], trailers[its] = meaning.sizes, meaning.ethertypes, meaning.trailers
    return Meaning(sizes, ethertypes, trailers)


def _ppi(view: View) -> Meaning:
    """Version, flags, length, link type."""
    size = view.little(2, 2)
    return _inner(view.behind(size), view.little(4, 4)).behind(size)


def _pktap(view: View) -> Meaning:
    """macOS: length, 1 for a packet, link type."""
    size = view.little(0, 4)
    return known(view.little(4, 4) == 1, _inner(view.behind(size), view.little(8, 4)).behind(size))


_ENVELOPES = (192, 258)
LINKS: dict[int, Link] = {
    0: Link("BSD loopback, NULL", local.null),
    ETHERNET: Link("Ethernet", framing.ethernet),
    6: Link("Token Ring, IEEE 802.5", local.token_ring),
    7: Link("ARCNET", local.arcnet),
    8: Link("SLIP", local.slip),
    9: Link("PPP", wide_area.ppp),
    10: Link("FDDI", local.fddi),
    12: Link("raw IP, DLT_RAW", framing.raw),
    14: Link("raw IP, DLT_RAW of OpenBSD", framing.raw),
    50: Link("PPP in HDLC-like framing", wide_area.ppp),
    51: Link("PPPoE", local.pppoe),
    99: Link("Symantec Enterprise Firewall", local.symantec),
    100: Link("ATM, RFC 2684", wide_area.atm),
    101: Link("raw IP", framing.raw),
    104: Link("Cisco HDLC", wide_area.ppp),
    105: Link("IEEE 802.11", wireless.frame),
    106: Link("ATM, classical IP of Linux", wide_area.atm),
    107: Link("Frame Relay", wide_area.frame_relay),
    108: Link("OpenBSD loopback, LOOP", local.null),
    109: Link("OpenBSD IPsec, enc", local.enc),
    113: Link("Linux cooked, SLL", local.cooked),
    117: Link("packet filter log of BSD, pflog", local.pflog),
    119: Link("IEEE 802.11 with Prism header", wireless.prism),
    122: Link("IP over Fibre Channel, RFC 2625", local.fibre_channel),
    123: Link("SunATM", wide_area.sun_atm),
    127: Link("IEEE 802.11 with radiotap header", wireless.radiotap),
    129: Link("ARCNET of Linux", local.arcnet_linux),
    138: Link("IP over IEEE 1394 of macOS", local.firewire),
    143: Link("DOCSIS", wide_area.docsis),
    163: Link("IEEE 802.11 with AVS header", wireless.prism),
    166: Link("PPP of pppd", wide_area.pppd),
    178: Link("Juniper, Ethernet", wide_area.juniper(framing.ethernet)),
    179: Link("Juniper, PPP", wide_area.juniper(wide_area.ppp)),
    180: Link("Juniper, Frame Relay", wide_area.juniper(wide_area.frame_relay)),
    181: Link("Juniper, Cisco HDLC", wide_area.juniper(wide_area.ppp)),
    192: Link("PPI, in front of another link type", _ppi),
    197: Link("Endace ERF", local.erf),
    204: Link("PPP with direction", framing.behind(1, wide_area.ppp)),
    205: Link("Cisco HDLC with direction", framing.behind(1, wide_area.ppp)),
    206: Link("Frame Relay with direction", framing.behind(1, wide_area.frame_relay)),
    219: Link("MPLS", local.mpls),
    226: Link("Solaris ipnet", local.ipnet),
    228: Link("raw IPv4", framing.raw),
    229: Link("raw IPv6", framing.raw),
    239: Link("Linux NFLOG", local.nflog),
    240: Link("netANALYZER", framing.behind(4, framing.with_checksum(framing.ethernet))),
    241: Link("netANALYZER, with preamble", local.netanalyzer_transparent),
    242: Link("IP over InfiniBand", local.infiniband),
    258: Link("PKTAP of macOS, in front of another link type", _pktap),
    274: Link("Ethernet with preamble, IEEE 802.3br", local.preamble),
    276: Link("Linux cooked, SLL2", local.cooked_v2),
    281: Link("Ethernet with a Broadcom switch tag", framing.behind(4, framing.ethernet)),
    282: Link("Ethernet with a Broadcom switch tag in front", framing.behind(4, framing.ethernet)),
    284: Link("Ethernet with a Marvell switch tag, DSA", framing.behind(4, framing.ethernet)),
    285: Link("Ethernet with a Marvell switch tag, EDSA", framing.behind(8, framing.ethernet)),
}
# Those that carry no IP, or IP in a form that is not read.
REFUSED = {
    3: "AX.25",
    102: "SLIP of BSD/OS",
    103: "PPP of BSD/OS",
    114: "LocalTalk",
    118: "Cisco IOS internal",
    120: "IEEE 802.11 of Aironet",
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
    189: "USB of Linux",
    190: "CAN",
    191: "IEEE 802.15.4 of Linux",
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
    220: "USB of Linux",
    224: "Fibre Channel FC-2",
    225: "Fibre Channel FC-2",
    227: "CAN of Linux",
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
    249: "USB of Windows",
    250: "RTAC serial",
    251: "Bluetooth LE",
    252: "Wireshark upper PDU",
    253: "Netlink",
    254: "Bluetooth monitor of Linux",
    255: "Bluetooth",
    256: "Bluetooth LE",
    257: "PROFIBUS",
    259: "EPON",
    260: "IPMI",
    261: "Z-Wave",
    264: "ISO 14443",
    265: "radio data system",
    266: "USB of macOS",
    268: "SDLC",
    270: "LoRaTap",
    271: "Linux vsock",
    272: "Nordic Bluetooth LE",
    273: "DOCSIS 3.1 XRA",
    275: "DisplayPort AUX",
    278: "USB of OpenVizsla",
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
KNOWN = tuple(LINKS)
CURE = (
    "capture with another link type, `tcpdump -L` lists them and `tcpdump -y` chooses one; "
    "or take the header off, `editcap -C BYTES -T ether`"
)


def name(link: int) -> str:
    """A link type that is not read, as a user reads it."""
    return f"{link} ({REFUSED[link]})" if link in REFUSED else str(link)


def ethernet(batch: Batch) -> Batch:
    """The packets with Ethernet headers. All links must be of KNOWN types; writes into the batch's buffer.

    What is shorter than its link header comes out shorter than an Ethernet header.
    """
    starts, captured, original = batch.starts.copy(), batch.captured.copy(), batch.original.copy()
    for link in np.unique(batch.links).tolist():
        if link == ETHERNET:
            continue
        its = batch.links == link
        meaning = LINKS[link].read(View(batch.buffer, starts[its], starts[its] + captured[its]))
        starts[its] += meaning.sizes - ETHERNET_HEADER
        original[its] -= meaning.sizes - ETHERNET_HEADER + meaning.trailers
        captured[its] -= meaning.sizes - ETHERNET_HEADER
        # The snap length may have cut the trailer off.
        there = np.minimum(captured[its], original[its])
        captured[its] = np.where(np.greater(meaning.trailers, 0), there, captured[its])
        # In what is too short for its link header there is no room: the bytes behind it are the next packet's.
        whole = captured[its] >= ETHERNET_HEADER
        header = np.zeros((np.count_nonzero(whole), ETHERNET_HEADER), np.uint8)
        ethertypes = meaning.ethertypes[whole]
        header[:, -2], header[:, -1] = ethertypes >> 8, ethertypes & 0xFF
        batch.buffer[starts[its][whole][:, None] + np.arange(ETHERNET_HEADER)] = header
    return Batch(batch.buffer, batch.offset, starts, captured, original, batch.times_ns, np.full_like(starts, ETHERNET))
