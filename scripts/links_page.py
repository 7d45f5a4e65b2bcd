# SPDX-License-Identifier: Apache-2.0
"""Generates docs/links.md from the tables of the kernel program and of otel_epping/replay/capture.

`make docs` runs `python -m scripts.links_page`.
"""

import re

from otel_epping.kernel.load.loader import source_folder
from otel_epping.replay.capture import link_types

_ROW = re.compile(r"ROW\(0x([0-9a-f]+), \d+\)\s+/\* (.*?) \*/")
# Headers of variable size, as read_link_header() in bpf/link_headers.h reads them: EtherTypes, header, contents.
VARIABLE = (
    (
        "0x0000 to 0x05dc, 0x8870",
        "802.3 with LLC (IEEE 802.2)",
        "SNAP with an EtherType (RFC 1042, 802.1H), IP, Cisco ISL",
    ),
    ("0x22f3", "TRILL (RFC 6325)", "an Ethernet frame, after any options"),
    ("0x4305", "batman-adv, version 15", "an Ethernet frame in unicast and broadcast packets"),
    ("0x8847, 0x8848", "MPLS (RFC 3032)", "IP, or an Ethernet pseudowire (RFC 4448) with or without a control word"),
    ("0x8864", "PPPoE session (RFC 2516)", "IP and MPLS, with a protocol field of two bytes or one"),
    ("0x8899", "Realtek switch tag", "protocols 0x04 and 0xa"),
    (
        "0x88e5",
        "MACsec (IEEE 802.1AE)",
        "frames that are authenticated but not encrypted, with or without a channel identifier",
    ),
    ("0x894f", "NSH (RFC 8300)", "IP, MPLS, an Ethernet frame, or another NSH header"),
    ("0xd28b", "Arista timestamp", "timestamps of 64 and 48 bits"),
)

_HEAD = """# Links

This page lists the headers before IP that the kernel program reads, and the link types of captures that `otel-epping
replay` reads. `make docs` generates it from `bpf/link_headers.h` and `otel_epping/replay/capture/link_types.py`; edit
these files. `python tests/oracles links` compares the headers that the tests build with tshark and tcpdump.

A packet that is not IP counts as `non_ip`. A packet with incomplete headers counts as `malformed`. Both are values of
`epping.packet.kind`.

## Headers between Ethernet and IP

Up to 8 of these headers in any order are read, in live traffic and in captures. If fewer than 8 bytes follow the
EtherType of a header listed here, the packet counts as `malformed`.

| EtherType | header |
|---|---|
"""

_BETWEEN = """
The size of these headers varies:

| EtherType | header | supported contents |
|---|---|---|
"""

_NOT_READ = """
Not read:

- Encrypted packets: MACsec with bit E or C.
- PPP in PPPoE that is compressed (Van Jacobson) or multilink (RFC 1990).
- A pseudowire without a control word, if the first hexadecimal digit of the destination MAC address is 4 or 6. MPLS
  labels do not name their contents, and a first digit of 4 or 6 means IP (RFC 4928).
- A switch tag without an EtherType before it (DSA, Broadcom, MediaTek), on the interface between host and switch. Watch
  the interfaces of the switch's ports instead.
- Packets inside VXLAN, GRE and IP-in-IP, unless `--tunnels` is set. Inside a tunnel at most one 802.1Q tag is read.

Trailers do not matter, because IP has its own length. If the length in a PPPoE or 802.3 header is shorter, the packet
ends there.

On interfaces without an Ethernet header (PPP, tun, GRE, VTI and others), the program reads the network header where the
kernel says that it starts, with the protocol that the kernel says it has. [docs/platforms.md](platforms.md) lists the
tested interfaces.

## Fragments

The first fragment of a packet contains the transport header. It counts as TCP, UDP or ICMP, and starts or completes RTT
samples. All other fragments count as `fragment`, and so does a first fragment with an incomplete transport header. The
end of a fragmented TCP segment is unknown: method `tcp_sequence` does not measure it, and treats the next segment as if
a segment before it were missing.

## Link types of captures

| number | link type |
|---|---|
"""

_BETWEEN_LINK_TYPES = """
IEEE 802.11: data frames are read if they are neither encrypted nor fragmented; all other frames count as `non_ip`. Only
the first packet of an A-MSDU is read.

Packets of all other link types are skipped. `replay` reads all other packets, reports the skipped link types, and ends
with exit code 1. To read such traffic, capture it with another link type: `tcpdump -L` lists the link types of an
interface, `tcpdump -y` selects one. If a header of fixed size precedes Ethernet or IP, `editcap -C BYTES -T ether` or
`-T rawip` removes it.

These link types are not supported; errors report them by name:

| number | link type |
|---|---|
"""


def fixed_headers() -> list[tuple[str, str]]:
    """Returns EtherType and name of each row of EACH_FIXED_HEADER in bpf/link_headers.h."""
    text = (source_folder() / "link_headers.h").read_text()
    return [(f"0x{ethertype}", name) for ethertype, name in _ROW.findall(text)]


def markdown() -> str:
    """Returns the text of docs/links.md."""
    fixed = "".join(f"| {ethertype} | {name} |\n" for ethertype, name in fixed_headers())
    variable = "".join(f"| {' | '.join(row)} |\n" for row in VARIABLE)
    supported = "".join(f"| {number} | {link_type.name} |\n" for number, link_type in link_types.LINK_TYPES.items())
    unsupported = "".join(f"| {number} | {name} |\n" for number, name in link_types.UNSUPPORTED.items())
    return _HEAD + fixed + _BETWEEN + variable + _NOT_READ + supported + _BETWEEN_LINK_TYPES + unsupported


if __name__ == "__main__":
    print(markdown(), end="")
