# SPDX-License-Identifier: Apache-2.0
"""Tests that events depend only on the packets, and not on how many bytes each read of the capture returns."""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from otel_epping.events.formats import FORMATS
from otel_epping.kernel.config import EppingConfig
from otel_epping.replay.run import run
from tests.support.captures import BEGIN_NS, SECOND, Packet, compressed, pcap, pcapng
from tests.support.conversation import Conversation
from tests.support.link_types import LINKS
from tests.support.split_reads import delivered

pytestmark = pytest.mark.parallel


CONFIG = EppingConfig(max_subnets=1024, max_flows=4096, sample_interval_ns=0)


@cache
def packets() -> list[Packet]:
    """Return packets that conversations send within half an hour.

    Some conversations end. Others pause for about as long as the idle timeout.
    """
    _, make = LINKS["ethernet"]
    chance = random.Random(5)
    found = []
    for number in range(30):
        again_s = [0, *chance.choices([100, 295, 299, 301, 305, 309, 330, 620], k=3)]
        begin_ns = chance.randrange(600 * SECOND)
        for pause_s in again_s:
            begin_ns += pause_s * SECOND
            for at_ns, ip in Conversation(number).ip:
                frame = make(ip)
                found.append(Packet(BEGIN_NS + begin_ns + at_ns, frame, len(frame)))
    return sorted(found)


def replayed(path: str, format: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run([path], CONFIG, format)
    return capsys.readouterr().out


@pytest.mark.parametrize("format", FORMATS)
def test_events_do_not_depend_on_the_size_of_reads(
    format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "capture"
    path.write_bytes(pcap(packets()))
    whole = replayed(str(path), format, capsys)
    assert whole.count("flow timeout") > 60 or format == "ppviz"
    for content, size in ((pcapng(packets()), 5_555), (compressed(pcap(packets())), 8_192)):
        with delivered(content, size) as pipe:
            assert replayed(pipe, format, capsys) == whole


@pytest.mark.parametrize("make", [pcap, lambda few: compressed(pcapng(few))], ids=["pcap", "pcapng.gz"])
def test_byte_by_byte(
    make: Callable[[list[Packet]], bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = make(packets()[:100])
    path = tmp_path / "capture"
    path.write_bytes(content)
    whole = replayed(str(path), "jsonl", capsys)
    assert whole
    with delivered(content, 1) as pipe:
        assert replayed(pipe, "jsonl", capsys) == whole


def test_a_flow_opens_again_after_the_idle_timeout(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """After a pause that exceeds the idle timeout, a packet arrives. The flow is first closed, and then opened again.

    The closing event has the time of the packet after the pause.
    """
    _, make = LINKS["ethernet"]
    talk = [(BEGIN_NS + pause_s * SECOND + at_ns, make(ip)) for pause_s in (0, 400) for at_ns, ip in Conversation(0).ip]
    path = tmp_path / "capture"
    path.write_bytes(pcap([Packet(time_ns, frame, len(frame)) for time_ns, frame in talk], nanoseconds=True))
    lines = replayed(str(path), "jsonl", capsys).splitlines()
    closed = [number for number, line in enumerate(lines) if '"reason":"flow timeout"' in line]
    assert closed
    assert all(f'"timestamp":{BEGIN_NS + 400 * SECOND},' in lines[number] for number in closed)
    assert closed == list(range(closed[0], closed[-1] + 1))
    assert sum('"flow_event":"opening"' in line for line in lines[: closed[0]]) == sum(
        '"flow_event":"opening"' in line for line in lines[closed[-1] :]
    )
