# SPDX-License-Identifier: Apache-2.0
"""Captures of packets, from files or standard input: pcap and pcapng, plain or compressed.

    errors             what can be wrong with a file
    batch              packets as arrays, some thousand at a time
    uncompress         the bytes of a compressed file, as they arrive
    stream             the bytes of a file, as a window that moves along
    pcap, pcapng       the formats, each a function from a stream to batches
    foreign            what other files are
    links              from the link types that there are to one
    view               bytes at the same place of many packets
    framing            IP, Ethernet and LLC behind them
    local, wide_area, wireless      what the headers of link types say

Knows neither the kernel program nor OpenTelemetry.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.replay.capture import foreign, links, pcap, pcapng
from otel_epping.replay.capture.batch import Batch
from otel_epping.replay.capture.errors import CaptureError
from otel_epping.replay.capture.stream import STANDARD_INPUT, Stream

__all__ = ["STANDARD_INPUT", "Batch", "Capture", "CaptureError"]


class Capture(Stream):
    """A capture, by its path; a context manager. What kind it is its first bytes tell, not its name.

    Raises CaptureError if it cannot be opened, or is of no kind that we know.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        try:
            self._batches = self._kind()
        except CaptureError:
            self.close()
            raise

    def __enter__(self) -> "Capture":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _kind(self) -> Callable[[Stream], Iterator[Batch]]:
        self.fill(len(pcapng.MAGIC))
        magic = bytes(self.memory[self.start : min(self.end, self.start + len(pcapng.MAGIC))])
        if not magic:
            raise CaptureError(f"{self.name}: is empty")
        if magic in pcap.MAGICS:
            return pcap.batches
        if magic == pcapng.MAGIC:
            return pcapng.batches
        if self.size:
            self.fill(foreign.BYTES)
        if meaning := foreign.name(bytes(self.memory[self.start : min(self.end, self.start + foreign.BYTES)])):
            raise CaptureError(f"{self.name}: {meaning}")
        raise self.error(f"is neither pcap nor pcapng (it begins with {magic.hex(' ')})", self.start)

    def batches(self) -> Iterator[Batch]:
        """All packets as they stand there. Raises CaptureError, after all that is whole, for what isn't."""
        return self._batches(self)

    def ethernet_batches(self) -> Iterator[Batch]:
        """All packets of links that we know, with an Ethernet header whatever they had.

        Raises CaptureError for links that we don't know: after all other packets, or at once if there are no others.
        """
        unknown: Counter[int] = Counter()
        for batch in self.batches():
            known = np.isin(batch.links, links.KNOWN)
            if known.all():
                yield links.ethernet(batch)
                continue
            unknown.update(batch.links[~known].tolist())
            if self._batches is pcap.batches:  # which has one link type for all
                break
            if known.any():
                yield links.ethernet(batch.take(known))
        if unknown:
            raise CaptureError(f"{self.name}: " + "; ".join(map(self._refusal, unknown.items())) + f": {links.CURE}")

    def _refusal(self, unknown: tuple[int, int]) -> str:
        link, packets = unknown
        # Of a pcap file, of which no more was read, nobody knows how many there are.
        count = "" if self._batches is pcap.batches else f"{packets:,} "
        return f"has {count}packets of link type {links.name(link)}, which is not supported"
