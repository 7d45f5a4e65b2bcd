# SPDX-License-Identifier: Apache-2.0
"""Captures of packets, from files or standard input: pcap and pcapng, plain or compressed by gzip.

    errors             what can be wrong with a file
    batch              packets as arrays, some thousand at a time
    gunzip             the bytes of a gzip file, as they arrive
    stream             the bytes of a file, as a window that moves along
    pcap, pcapng       the formats, each a function from a stream to batches
    links              from the link types that there are to one

Knows neither the kernel program nor OpenTelemetry.
"""

from collections.abc import Callable, Iterator

import numpy as np

from otel_epping.capture import links, pcap, pcapng
from otel_epping.capture.batch import Batch
from otel_epping.capture.errors import CaptureError
from otel_epping.capture.stream import STANDARD_INPUT, Stream

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
        raise self.error(f"is neither pcap nor pcapng (it begins with {magic.hex(' ')})", self.start)

    def batches(self) -> Iterator[Batch]:
        """All packets as they stand there. Raises CaptureError, after all that is whole, for what isn't."""
        return self._batches(self)

    def ethernet_batches(self) -> Iterator[Batch]:
        """All packets, with an Ethernet header whatever they had. Raises CaptureError for a link that we don't know."""
        for batch in self.batches():
            known = np.isin(batch.links, links.KNOWN)
            count = len(batch) if known.all() else int(np.argmin(known))
            if count:
                yield links.ethernet(batch.take(slice(count)))
            if count < len(batch):
                link = links.name(int(batch.links[count]))
                raise self.error(f"has packets of link type {link}, which is not supported", int(batch.starts[count]))
