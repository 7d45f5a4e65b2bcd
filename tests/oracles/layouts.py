# SPDX-License-Identifier: Apache-2.0
"""Checks whether tshark and tcpdump read what tests/support/link_types.py and tests/long/fuzz/links.py make.

These are every link type of captures, and every header between Ethernet and IP. Each gets two UDP packets after it. It
is enough if one of the tools finds both packets by their ports. UNREAD names what neither tool reads, with the reason;
if a tool reads it, that is an error.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from otel_epping.errors import EppingError
from tests.long.fuzz import builders
from tests.oracles.report import Report
from tests.support.captures import BEGIN_NS, ETHERNET, Packet, pcap
from tests.support.link_types import LINKS

PACKETS = [
    bytes(IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=1, dport=2) / b"data"),
    bytes(IPv6(src="2001:db8::1", dst="2001:db8::2") / UDP(sport=3, dport=4) / b"more data"),
]
FOUND = "1 2 3 4"
TOOLS = {
    "tshark": ("tshark -n -T fields -e udp.srcport -e udp.dstport -r", r"(\d+)\t(\d+)"),
    "tcpdump": ("tcpdump -n -r", r"\.(\d+) > \S+\.(\d+): UDP"),
}
UNREAD = {
    "null of Linux": "10 is no address family of any BSD: libpcap on Linux writes what the kernel has",
    "null of Windows": "23 is taken for IPX, which BSD has there",
    "ATM without LLC": "both take it for LLC",
    "ATM with PPP": "both take it for LLC",
    "DOCSIS": "tshark asks for checksums",
    "DOCSIS with an extended header": "tshark asks for checksums",
    "Cisco HDLC with direction": "of no tool",
    "Frame Relay with direction": "of no tool",
    "MPLS": "of no tool as a link type",
    "NFLOG, big-endian": "both read the byte order of the machine they run on",
    "802.3br": "tshark asks for checksums",
    "802.1Q of old, 0x9300": "of no tool",
    "802.1Qau": "of no tool",
    "Broadcom": "tshark names the tag alone",
    "DSA 802.1Q": "of no tool",
    "ISL": "both tell it by its destination address, which the program does not look at",
    "Marvell": "of no tool as a tag behind an EtherType",
    "Realtek": "tshark names the tag alone",
    "Realtek, 8": "tshark names the tag alone",
    "TRILL label": "of no tool alone",
    "pseudowire": "tshark takes any frame whose address begins with 0 for one behind a control word",
}


def check() -> Report:
    """Raises EppingError if a tool is missing."""
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    if missing:
        raise EppingError(f"{' and '.join(missing)} not installed: apt-get install tshark tcpdump")
    report = Report("layouts of link headers")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "made.pcap"
        for name, link, frames in made():
            path.write_bytes(pcap([Packet(BEGIN_NS, frame, len(frame), link) for frame in frames], link=link))
            readers = [tool for tool in TOOLS if FOUND in found(tool, path)]
            report.tally[f"read by {' and '.join(readers) or 'none of them'}"] += 1
            if not readers and name not in UNREAD:
                report.errors.append(f"{name}: read by none of them")
            if readers and name in UNREAD:
                report.errors.append(f"{name}: read by {' and '.join(readers)}, take it out of UNREAD")
    return report


def made() -> Iterator[tuple[str, int, list[bytes]]]:
    """Name, link type, and the two packets."""
    for name, (link, make) in LINKS.items():
        yield name, link, [make(packet) for packet in PACKETS]
    for name in builders.ALL_LINKS:
        headers = [builders.link((name,), version) for version in (4, 6)]
        frames = [header + packet for header, packet in zip(headers, PACKETS, strict=True)]
        yield (
            name,
            ETHERNET,
            [builders.with_session_length(frame, len(header)) for frame, header in zip(frames, headers, strict=True)],
        )


def found(tool: str, path: Path) -> str:
    """The ports that a tool finds, in order."""
    command, pattern = TOOLS[tool]
    done = subprocess.run([*command.split(), str(path)], capture_output=True, text=True, errors="replace", check=False)
    return " ".join(port for ports in re.findall(pattern, done.stdout) for port in ports)
