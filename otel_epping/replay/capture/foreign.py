# SPDX-License-Identifier: Apache-2.0
"""Files that are not pcap or pcapng, known by their first bytes: what each is, and what makes a capture of it.

Sources: the magic numbers of Wireshark's wiretap library, of file(1), and of the formats' own specifications.
"""

BYTES = 262
"""How many bytes from the beginning of a file are looked at."""

_EDITCAP = "convert it with editcap -F pcapng IN OUT"
_ETL2PCAPNG = "convert it with etl2pcapng IN.etl OUT.pcapng"
_ONCE_MORE = "is compressed twice: uncompress it once"

# Where it stands, the bytes, and what such a file is, with the cure.
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"snoop\0\0\0", f"is a snoop capture (RFC 1761): {_EDITCAP}"),
    (0, b"btsnoop\0", "is a Bluetooth capture (btsnoop), which has no IP"),
    (0, b"GMBU", f"is a Network Monitor 2 capture: {_EDITCAP}"),
    (0, b"RTSS", f"is a Network Monitor 1 capture: {_EDITCAP}"),
    (0, b"TRSNIFF data    \x1a", f"is a Sniffer capture: {_EDITCAP}"),
    (0, b"XCP\0", f"is a NetXRay capture: {_EDITCAP}"),
    (0, b"VL\0\0", f"is a NetXRay capture: {_EDITCAP}"),
    (0, b"\x7fver", f"is an OmniPeek capture: {_EDITCAP}"),
    (0, b"iptrace ", f"is an iptrace capture of AIX: {_EDITCAP}"),
    (0, b"\x54\x52\x00\x64\x00", f"is a nettl trace of HP-UX: {_EDITCAP}"),
    (0, b"\x05VNF", f"is a Visual Networks capture: {_EDITCAP}"),
    (0, b"EyeSDN", f"is an EyeSDN trace: {_EDITCAP}"),
    # The system trace header, of 32 and of 64 bits, behind the header of the first buffer.
    (0x48, b"\x02\0\x01\xc0", f"is an event trace of Windows: {_ETL2PCAPNG}"),
    (0x48, b"\x02\0\x02\xc0", f"is an event trace of Windows: {_ETL2PCAPNG}"),
    (0, b"PK\x03\x04", "is a zip archive: unzip it"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive: 7z x FILE"),
    (0, b"Rar!", "is a RAR archive: unrar x FILE"),
    (257, b"ustar", "is a tar archive: tar -xf FILE"),
    (0, b"\x1f\x9d", "is compressed by compress: gzip -dc FILE | otel-epping replay -"),
    (0, b"\x02\x21\x4c\x18", "is compressed by lz4 in its legacy format: lz4 -dc FILE | otel-epping replay -"),
    (0, b"LZIP", "is compressed by lzip: lzip -dc FILE | otel-epping replay -"),
    (0, b"\x89LZO\0", "is compressed by lzop: lzop -dc FILE | otel-epping replay -"),
    (0, b"version https://git-lfs", "is a pointer of Git LFS: git lfs pull"),
    *(
        (0, magic, _ONCE_MORE)
        for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
    ),
)
_TEXT = frozenset(b"\t\n\r\x1b" + bytes(range(0x20, 0x7F)))
_TEXT_LEAST = 4
# Endace ERF has no magic number: a record begins with its time, its type, flags and its own length in network byte
# order (https://www.endace.com/erf-extensible-record-format-types.pdf).
_ERF_TYPES = frozenset(range(1, 49))
_ERF_SECONDS = slice(4, 8)
_ERF_LEAST, _ERF_YEARS = 16, range(1990, 2100)
_SECONDS_PER_YEAR = 31_556_952


def name(head: bytes) -> str | None:
    """What a file is that begins with these bytes, and the cure; None if the bytes are of no format listed here."""
    for at, magic, meaning in _MAGICS:
        if head[at:].startswith(magic):
            return meaning
    if len(head) >= _TEXT_LEAST and _TEXT.issuperset(head):
        return "is text: replay reads what tcpdump -w writes"
    if len(head) >= _ERF_LEAST and head[8] & 0x7F in _ERF_TYPES:
        year = 1970 + int.from_bytes(head[_ERF_SECONDS], "little") // _SECONDS_PER_YEAR
        if year in _ERF_YEARS and int.from_bytes(head[10:12], "big") >= _ERF_LEAST:
            return f"is probably an ERF capture of an Endace card: {_EDITCAP}"
    return None
