# SPDX-License-Identifier: Apache-2.0
"""Recognizes an unsupported format by the first bytes of the file, and creates an error message.

The message contains the format, and a command that converts the file.

The magic numbers are from Wireshark's wiretap library, from file(1), and from the specifications of the formats.
"""

HEAD_BYTES = 262
"""Number of bytes at the start of a file that describe() examines."""

_EDITCAP = "convert it with editcap -F pcapng IN OUT"
_ETL2PCAPNG = "convert it with etl2pcapng IN.etl OUT.pcapng"
_COMPRESSED_TWICE = "is compressed twice: decompress it once"

# The position of the magic number in the file, the magic number, and the error message.
_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"snoop\0\0\0", f"is a snoop capture (RFC 1761): {_EDITCAP}"),
    (0, b"btsnoop\0", "is a Bluetooth capture (btsnoop), which has no IP"),
    (0, b"GMBU", f"is a Network Monitor 2 capture: {_EDITCAP}"),
    (0, b"RTSS", f"is a Network Monitor 1 capture: {_EDITCAP}"),
    (0, b"TRSNIFF data    \x1a", f"is a Sniffer capture: {_EDITCAP}"),
    (0, b"XCP\0", f"is a NetXRay capture: {_EDITCAP}"),
    (0, b"VL\0\0", f"is a NetXRay capture: {_EDITCAP}"),
    (0, b"\x7fver", f"is an OmniPeek capture: {_EDITCAP}"),
    (0, b"iptrace ", f"is an AIX iptrace capture: {_EDITCAP}"),
    (0, b"\x54\x52\x00\x64\x00", f"is an HP-UX nettl trace: {_EDITCAP}"),
    (0, b"\x05VNF", f"is a Visual Networks capture: {_EDITCAP}"),
    (0, b"EyeSDN", f"is an EyeSDN trace: {_EDITCAP}"),
    # The magic number of a Windows event trace is in the system trace header, which follows the header of the first
    # buffer. 32-bit and 64-bit systems write different magic numbers.
    (0x48, b"\x02\0\x01\xc0", f"is a Windows event trace: {_ETL2PCAPNG}"),
    (0x48, b"\x02\0\x02\xc0", f"is a Windows event trace: {_ETL2PCAPNG}"),
    (0, b'{"resourceMetrics"', "is a file of OTLP JSON lines: otel-epping report FILE -o PAGE.html"),
    (0, b"PK\x03\x04", "is a zip archive: unzip FILE"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive: 7z x FILE"),
    (0, b"Rar!", "is a RAR archive: unrar x FILE"),
    (257, b"ustar", "is a tar archive: tar -xf FILE"),
    (0, b"\x1f\x9d", "is compressed by the program compress: gzip -dc FILE | otel-epping replay -"),
    (0, b"\x02\x21\x4c\x18", "is compressed in the legacy format of lz4: lz4 -dc FILE | otel-epping replay -"),
    (0, b"LZIP", "is compressed by lzip: lzip -dc FILE | otel-epping replay -"),
    (0, b"\x89LZO\0", "is compressed by lzop: lzop -dc FILE | otel-epping replay -"),
    (0, b"version https://git-lfs", "is a Git LFS pointer: git lfs pull"),
    *(
        (0, magic, _COMPRESSED_TWICE)
        for magic in (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
    ),
)
_TEXT = frozenset(b"\t\n\r\x1b" + bytes(range(0x20, 0x7F)))
_MIN_TEXT_BYTES = 4
# Endace ERF has no magic number. A record begins with a timestamp (little-endian), the type, the flags, and the
# record length (big-endian). See the specification of the format
# (https://www.endace.com/erf-extensible-record-format-types.pdf).
_ERF_TYPES = frozenset(range(1, 49))
_ERF_SECONDS = slice(4, 8)
_MIN_ERF_BYTES, _ERF_YEARS = 16, range(1990, 2100)
_SECONDS_PER_YEAR = 31_556_952


def describe(head: bytes) -> str | None:
    """Returns an error message for a file that begins with `head`: the format of the file, and how to convert the file.

    Returns None if the format is unknown.
    """
    for at, magic, message in _MAGICS:
        if head[at:].startswith(magic):
            return message
    if len(head) >= _MIN_TEXT_BYTES and _TEXT.issuperset(head):
        return "is text: replay reads binary captures, like the output of tcpdump -w"
    if len(head) >= _MIN_ERF_BYTES and head[8] & 0x7F in _ERF_TYPES:
        year = 1970 + int.from_bytes(head[_ERF_SECONDS], "little") // _SECONDS_PER_YEAR
        if year in _ERF_YEARS and int.from_bytes(head[10:12], "big") >= _MIN_ERF_BYTES:
            return f"is probably an Endace ERF capture: {_EDITCAP}"
    return None
