# SPDX-License-Identifier: Apache-2.0
"""Recognises the kind of a source by the content of the source, and reads sources into a history."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

from otel_epping.errors import EppingError
from otel_epping.history.history import History
from otel_epping.history.sources.reading import RANGE_SIZE, InputFile, Progress
from otel_epping.kernel.config import EppingConfig
from otel_epping.networks.network import Networks
from otel_epping.process.escaping import escaped_path
from otel_epping.replay.capture import pcap, pcapng
from otel_epping.series.grouping import Grouping

_INSTALL = "pip install 'otel-epping[report]'"
_URLS = ("http://", "https://", "prometheus+http://", "prometheus+https://")
# The first line can be damaged, and can be longer than the head. So the fields of data points are also searched.
_OTLP_FIELDS = (
    *(b'"resourceMetrics"', b'"resourceSpans"', b'"resourceLogs"', b'"resourceProfiles"', b'"scopeMetrics"'),
    *(b'"dataPoints"', b'"startTimeUnixNano"', b'"timeUnixNano"', b'"bucketCounts"', b'"explicitBounds"'),
)
_PPING_FIELDS = (
    *(b'"bin_width_ns"', b'"ip_prefix"', b'"src_ip"', b'"protocol_counters"', b'"flow_event"'),
    *(b'"rx_stats"', b'"tx_stats"', b'"count_rtt"'),
)


class Kind(Enum):
    """The kind of a source. The value is the text for messages."""

    CAPTURE = "a capture"
    OTLP = "an OTLP file"
    PPING = "output of ePPing"
    PROMETHEUS = "Prometheus"


def kind_of(source: str) -> Kind:
    """Returns the kind of a source. A URL is Prometheus' HTTP API. The content of a file shows the kind of the file.

    Raises EppingError if the file cannot be read, or if the content is of no known kind. Use read_source() for `-`.
    """
    if _is_url(source):
        return Kind.PROMETHEUS
    file = InputFile(source)
    file.close()
    return _kind_of(file)


def _is_url(source: str) -> bool:
    return source.lower().startswith(_URLS)


def _identity(source: str) -> tuple[int, int] | str:
    """Returns the device and the inode of a file, so that a file with two names is read once; or a URL or `-`."""
    with suppress(OSError):
        if source != "-" and not _is_url(source):
            found = Path(source).stat()
            return found.st_dev, found.st_ino
    return source


def _kind_of(file: InputFile) -> Kind:
    if file.head.startswith((*pcap.MAGICS, pcapng.MAGIC)):
        return Kind.CAPTURE
    if any(field in file.head for field in _OTLP_FIELDS):
        return Kind.OTLP
    if any(field in file.head for field in _PPING_FIELDS):
        return Kind.PPING
    if not file.head:
        raise EppingError(f"{file.name}: {file.damage or 'is empty'}")
    raise EppingError(
        f"{file.name}: is neither a capture, nor lines of OTLP/JSON, nor JSON output of ePPing. "
        f"It begins with {file.head[:16]!r}"
    )


def _shown(source: str) -> str:
    """Returns a source for messages. The user, the password and the query of a URL may be secret."""
    if not _is_url(source):
        return escaped_path(source)
    scheme, _, rest = source.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2].partition('?')[0]}"


def source_size(sources: Sequence[str]) -> int:
    """Returns the sum of the numbers that read_sources() passes to `progress`.

    A file counts with the number of its bytes, and a URL counts with RANGE_SIZE.
    """
    total = 0
    for source in sources:
        if _is_url(source):
            total += RANGE_SIZE
            continue
        with suppress(OSError):
            total += Path(source).stat().st_size
    return total


def read_sources(
    sources: Sequence[str],
    config: EppingConfig | None = None,
    *,
    grouping: Grouping | None = None,
    networks: Networks | None = None,
    progress: Progress = lambda _: None,
) -> History:
    """Returns one history of all sources, which must be of the same kind. Captures must be in the order of time.

    config, grouping, networks  how captures are measured, as for read_captures()
    progress                    function that is called with the size read since the last call (source_size())

    Raises EppingError if no source has usable data. The notes of the history describe unused data.
    """
    first: dict[tuple[int, int] | str, str] = {}  # the first name of each file
    identities = list(map(_identity, sources))
    for identity, source in zip(identities, sources, strict=True):
        first.setdefault(identity, source)
    kinds = {source: Kind.PROMETHEUS if _is_url(source) else None for source in first.values()}
    files: dict[str, InputFile] = {}
    for source, kind in kinds.items():
        if kind is None:
            files[source] = InputFile(source, progress)
            kinds[source] = _kind_of(files[source])
    if len(set(kinds.values())) > 1:
        named = ", ".join(f"{_shown(source)} is {kind.value}" for source, kind in kinds.items() if kind)
        raise EppingError(f"sources of different kinds cannot be added up: {named}")
    (kind,) = set(kinds.values())
    if kind is not Kind.CAPTURE:
        try:
            history = _read_json(kind, list(kinds), list(files.values()), progress)
        except ModuleNotFoundError as error:
            if error.name != "msgspec":
                raise
            raise EppingError(f"recordings need the package msgspec: {_INSTALL}") from None
        times = Counter(identities)
        repeated = [source for file, source in first.items() if times[file] > 1]
        history.notes += [f"{_shown(source)} is named several times, and was read once" for source in repeated]
        return history
    for file in files.values():
        if file.is_pipe:
            raise EppingError(f"{file.name}: a capture cannot be read from a pipe here: name a file")
        file.close()
    from otel_epping.history.sources.captures import read_captures

    return read_captures(sources, config or EppingConfig(), grouping=grouping, networks=networks, progress=progress)


def _read_json(kind: Kind | None, sources: Sequence[str], files: Sequence[InputFile], progress: Progress) -> History:
    """Reads sources other than captures. These imports need msgspec. The extra `report` installs msgspec."""
    if kind is Kind.PROMETHEUS:
        from otel_epping.history.sources.prometheus import read_prometheus

        return read_prometheus(sources, progress)
    if kind is Kind.OTLP:
        from otel_epping.history.sources.otlp_files import read_otlp

        return read_otlp(files)
    from otel_epping.history.sources.pping import read_pping

    return read_pping(files)
