# SPDX-License-Identifier: Apache-2.0
"""Tests histories of captures: the sums of all slices equal the table that `replay` prints."""

from contextlib import closing
from pathlib import Path

import pytest

from otel_epping.history.history import History
from otel_epping.history.sources.captures import CaptureSlicer, read_captures
from otel_epping.history.total import Total
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel import metric_table
from otel_epping.replay.input_files import InputFiles
from otel_epping.replay.replayer import Replayer
from otel_epping.replay.subnet_table import table
from otel_epping.series.grouping import Grouping
from tests.support.captures import ETHERNET, Packet, pcap
from tests.support.conversation import Conversation, rows_of

pytestmark = pytest.mark.parallel

PCAPS = sorted(Path("/work/shared/pcaps").glob("*.pcap"))
MS = 1_000_000
HEADER = bytes(12)  # the addresses of Ethernet
ETHERTYPES = {4: b"\x08\x00", 6: b"\x86\xdd"}


def capture_of(path: Path, conversations: dict[int, Conversation]) -> Path:
    """Write a capture. Each conversation begins at its key, in ns."""
    packets = [
        Packet(begin_ns + time_ns, HEADER + ETHERTYPES[each.version] + data, len(data) + 14, ETHERNET)
        for begin_ns, each in conversations.items()
        for time_ns, data in each.ip
    ]
    path.write_bytes(pcap(sorted(packets), nanoseconds=True))
    return path


def rows_of_history(history: History, total: Total) -> dict[tuple[str, str], list[str]]:
    """Return the cells of the table of `replay`, without the unanswered subnets' number."""
    rows = {}
    packets, octets = (total.sum(metric.name) for metric in (metric_table.SUBNET_PACKETS, metric_table.SUBNET_BYTES))
    assert packets is not None
    assert octets is not None
    for number, line in enumerate(history.lines):
        sums = [f"{packets[number]:,}", f"{octets[number]:,}"]
        methods = [name for name in METHODS if total.rtts([name]).counts[number]]
        for place, method in enumerate(methods):
            rtts = total.rtts([method])
            quantiles = [float(each[number]) for each in rtts.quantiles(0.5, 0.9, 0.99)]
            times = [rtts.min_ns[number] / 1e9, *quantiles, rtts.max_ns[number] / 1e9]
            cells = [f"{rtts.counts[number]:,}", *(f"{each * 1e3:.3f}" for each in times)]
            rows[line.label, method or "all"] = [*cells, *(sums if place == 0 else [])]
        if not methods and packets[number]:
            rows[line.label, "-"] = ["0", *sums]
    return rows


METHODS = ("tcp_timestamp", "tcp_sequence", "tcp_handshake", "icmp_echo", "dns", "quic_handshake", "")


@pytest.fixture(scope="module")
def config() -> EppingConfig:
    return EppingConfig(max_subnets=1024, max_flows=4096)


@pytest.mark.parametrize("path", PCAPS, ids=[path.stem for path in PCAPS])
def test_the_sum_of_all_slices_is_the_table_of_replay(config: EppingConfig, path: Path) -> None:
    with closing(Replayer(config)) as replayer:
        reader = replayer.reader()
        slicer = CaptureSlicer(replayer)
        for batch in InputFiles([str(path)]).batches(lambda _: None):
            slicer.feed(batch)
        history = slicer.finish()
        expected = rows_of(table(reader.read(), reader, replayer, Grouping()))
    assert 2 < len(history) <= 200
    found = rows_of_history(history, history.total())
    merged = rows_of_history(history, history.total(begin_ns=0))
    assert found == merged
    assert {(name.partition(" (")[0], method): cells for (name, method), cells in expected.items()} == found


def conversation_history(tmp_path: Path, begins_ns: list[int], step_ns: int | None = None) -> History:
    conversations = {begin_ns: Conversation(number) for number, begin_ns in enumerate(begins_ns)}
    path = capture_of(tmp_path / "some.pcap", conversations)
    config = EppingConfig(max_subnets=64, max_flows=256, sample_interval_ns=0)
    return read_captures([str(path)], config, step_ns=step_ns)
