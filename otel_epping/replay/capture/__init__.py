# SPDX-License-Identifier: Apache-2.0
"""Reads packet captures in the formats pcap and pcapng from files or standard input, also if they are compressed.

    errors               CaptureError
    packet_batch         up to 4096 packets as numpy arrays
    decompress           decompression of gzip, bzip2, xz, lzma, zstd and lz4
    stream               a moving window over the bytes of a file
    pcap, pcapng         the two supported file formats: each module converts a stream into batches
    unsupported_formats  detects other file formats, which the error message names
    link_types           the supported link types, and the conversion of packets to Ethernet
    packet_view          reads header fields of many packets at once
    common_headers       readers for headers that many other link headers contain: IP, Ethernet and LLC
    lan_headers, wan_headers, wifi_headers      readers for all other link headers

This package imports neither otel_epping.kernel nor OpenTelemetry.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.replay.capture import link_types, pcap, pcapng, unsupported_formats
from otel_epping.replay.capture.errors import CaptureError
from otel_epping.replay.capture.packet_batch import PacketBatch
from otel_epping.replay.capture.stream import STANDARD_INPUT, Stream

__all__ = ["STANDARD_INPUT", "Capture", "CaptureError", "PacketBatch"]


class Capture(Stream):
    """An open capture; a context manager that closes the file at the end. `path` is a file or STANDARD_INPUT.

    The first bytes of the file determine the format. The file name does not matter. Raises CaptureError if the file
    cannot be opened, is empty, or does not have a supported format.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._batches = self._format()
        except CaptureError:
            self.close()
            raise

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _format(self) -> Callable[[Stream], Iterator[PacketBatch]]:
        self.fill(len(pcapng.MAGIC))
        magic = self._head(len(pcapng.MAGIC))
        if not magic:
            raise CaptureError(f"{self.name}: is empty")
        if magic in pcap.MAGICS:
            return pcap.batches
        if magic == pcapng.MAGIC:
            return pcapng.batches
        if self.size:
            self.fill(unsupported_formats.HEAD_BYTES)
        if cause := unsupported_formats.describe(self._head(unsupported_formats.HEAD_BYTES)):
            raise CaptureError(f"{self.name}: {cause}")
        raise self.error(f"is neither pcap nor pcapng (it begins with {magic.hex(' ')})", self.start)

    def _head(self, size: int) -> bytes:
        """Returns the next `size` unread bytes, or all bytes if the window contains fewer bytes."""
        return bytes(self.memory[self.start : min(self.end, self.start + size)])

    def batches(self) -> Iterator[PacketBatch]:
        """Yields all packets with their original link headers.

        If the file is truncated or damaged, yields all packets before the first damage, and then raises CaptureError.
        """
        return self._batches(self)

    def ethernet_batches(self) -> Iterator[PacketBatch]:
        """Yields all packets of supported link types, each with an Ethernet header in place of its link header.

        If packets of a pcapng file have unsupported link types, yields all other packets, and then raises CaptureError.
        All packets of a pcap file have the same link type. If the link type of a pcap file is unsupported, reads one
        batch, yields no packets, and raises CaptureError.
        """
        unsupported: Counter[int] = Counter()
        for batch in self.batches():
            supported = np.isin(batch.link_types, link_types.SUPPORTED)
            if supported.all():
                yield link_types.to_ethernet(batch)
                continue
            unsupported.update(batch.link_types[~supported].tolist())
            if self._batches is pcap.batches:
                break
            if supported.any():
                yield link_types.to_ethernet(batch.take(supported))
        if unsupported:
            causes = "; ".join(map(self._cause, unsupported.items()))
            raise CaptureError(f"{self.name}: has {causes}: {link_types.CURE}")

    def _cause(self, unsupported: tuple[int, int]) -> str:
        link_type, packets = unsupported
        # The number of packets in a pcap file with an unsupported link type is unknown, because the file was not read
        # to the end.
        count = "" if self._batches is pcap.batches else f"{packets:,} "
        return f"{count}packets of unsupported link type {link_types.describe(link_type)}"
