# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping top` with captures that are empty, short, damaged or of other formats."""

import gzip
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from otel_epping.lab.namespaces import Namespace
from tests.support.captures import BEGIN_NS, SECOND, Packet, enhanced, interface, pcap, section
from tests.support.command import COMMAND, environment, epping, said
from tests.support.conversation import CLIENT, HANDSHAKE_MS, SERVER, Conversation
from tests.support.link_types import LINKS

pytestmark = pytest.mark.parallel

SMALL = ("--max-subnets", "1000", "--max-flows", "1000")
TALK = Conversation(1)
PACKETS = TALK.packets(*LINKS["ethernet"])
WHOLE = pcap(PACKETS)


def batch(ns: Namespace, *arguments: str) -> tuple[Any, str]:
    """Return the printed document, which may be None, and the error."""
    result = epping(ns, "top", *SMALL, "-b", "--format", "json", *arguments)
    assert "Traceback" not in result.stderr
    assert result.returncode == (1 if result.stderr else 0)
    return json.loads(result.stdout) if result.stdout else None, result.stderr


def packets_of(document: Any) -> float:
    """Return the number of packets. Each packet counts for the subnets of the sender and of the receiver."""
    return float(sum(row["packets"] for row in document["networks"]) / 2)


def write_file(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


UNREADABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (write_file(b"this is not a capture, but a text"), "is text"),
    "recording": (write_file(b'{"resourceMetrics":[]}\n'), "is a file of OTLP JSON lines: otel-epping report"),
    "compressed recording": (write_file(gzip.compress(b'{"resourceMetrics":[]}\n')), "is a file of OTLP JSON lines"),
    "no bytes": (write_file(b""), "is empty"),
    "directory": (Path.mkdir, "is a directory"),
    "missing": (lambda _: None, "No such file or directory"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_is_no_capture_is_an_error_of_one_line(ns: Namespace, tmp_path: Path, name: str) -> None:
    make, cause = UNREADABLE[name]
    make(tmp_path / "input")
    document, error = batch(ns, str(tmp_path / "input"))
    assert document is None
    assert error.startswith(f"otel-epping: {tmp_path}/input: {cause}")
    assert error.count("\n") == 1


CUT = len(WHOLE) - 20
DAMAGED = {
    "truncated": (WHOLE[:CUT], "is truncated in the middle of a packet", 9),
    "cut gzip": (gzip.compress(WHOLE)[:-50], "the gzip file is truncated", 1),
    "damaged": (pcap(PACKETS[:4]) + b"\xff" * 400, "is damaged: a packet of 4294967295 bytes", 4),
    "cut in the header": (WHOLE[:30], "is truncated in the middle of a packet", 0),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_could_be_read_of_a_damaged_capture_is_shown(ns: Namespace, tmp_path: Path, name: str) -> None:
    content, cause, packets = DAMAGED[name]
    (tmp_path / "input").write_bytes(content)
    document, error = batch(ns, str(tmp_path / "input"))
    assert error.startswith(f"otel-epping: {tmp_path}/input: {cause}")
    assert error.count("\n") == 1
    if not packets:
        assert document is None
        return
    found = packets_of(document)
    assert found >= packets if name == "cut gzip" else found == packets
    assert found == int(found)


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_names_of_files_are_escaped(ns: Namespace, tmp_path: Path, format: str) -> None:
    path = tmp_path / os.fsdecode(b"\x1b]0;x\x07\n\xff[bold].pcap")
    path.write_bytes(WHOLE[:CUT])
    arguments = ("-b", "--format", format, "--filter", os.fsdecode(b"n>=0 \x1b\xff"))
    result = epping(ns, "top", *SMALL, *arguments, str(path), str(path))
    name = r"\x1b]0;x\x07\x0a\xff[bold].pcap"
    assert f"{name}: is truncated" in result.stderr
    for output in (result.stdout, result.stderr):
        assert output.replace("\n", "").isprintable()
    if format == "json":
        document = json.loads(result.stdout)
        assert document["source"] == "2 files"
        assert document["filter"] == r"n>=0 \x1b\xff"
        assert all(each.isprintable() for each in document["notes"])
        assert f"{name} is the same file" in " ".join(document["notes"])
        path.write_bytes(WHOLE)
        document, _ = batch(ns, str(path))
        assert document["source"].endswith(name)


def test_readable_files_are_shown_if_other_files_are_not(ns: Namespace, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is not a capture, but a text")
    (tmp_path / "good").write_bytes(WHOLE)
    document, error = batch(ns, *(str(tmp_path / name) for name in ("missing", "good", "text")))
    assert packets_of(document) == len(PACKETS)
    assert [line.partition("/input")[0].rpartition("/")[2] for line in error.splitlines()] == [
        "missing: No such file or directory",
        "text: is text: replay reads binary captures, like the output of tcpdump -w",
    ]


def test_one_packet_and_one_sample(ns: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "few.pcap"
    path.write_bytes(pcap(PACKETS[:1]))
    document, error = batch(ns, str(path))
    assert not error
    assert [(row["kind"], row["n"], row["packets"]) for row in document["networks"]] == [("unanswered", 0, 2)]
    assert document["reasons"][-1] == f"1 packet was seen on {path}, but no RTT was measured."
    path.write_bytes(pcap(PACKETS[:2]))
    document, error = batch(ns, str(path))
    assert not error
    (row,) = (row for row in document["networks"] if row["kind"] == "network")
    assert (row["subnet"], row["n"], row["packets"], row["impact"]) == (TALK.server, 1, 2, 0)
    for column in ("min", "p50", "p95", "p99", "max"):
        assert row[column] == HANDSHAKE_MS
    assert (row["excess"], row["change"], row["load"]) == (0, None, None)


WITHOUT_RTTS = {
    "one direction": (
        pcap([each for each in PACKETS if each.data[26:30] == PACKETS[0].data[26:30]]),
        "The capture contains only one direction of the traffic, as with asymmetric routing",
    ),
    "backwards": (
        pcap([each._replace(time_ns=2 * BEGIN_NS - each.time_ns) for each in PACKETS]),
        "A reply that is earlier than its request gives no RTT",
    ),
    "no time": (
        section() + interface() + b"".join(enhanced(each, ticks=2**63) for each in PACKETS),
        "RTTs cannot be measured without timestamps",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_RTTS)
def test_the_cause_of_missing_rtts_is_named(ns: Namespace, tmp_path: Path, name: str) -> None:
    content, cause = WITHOUT_RTTS[name]
    (tmp_path / "input").write_bytes(content)
    document, _ = batch(ns, str(tmp_path / "input"))
    first, last = document["reasons"]
    assert first.startswith(cause)
    assert last.endswith("but no RTT was measured.")


def test_a_method_without_rtts_is_named(ns: Namespace, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(WHOLE)
    document, _ = batch(ns, "--filter", "method:quic", str(tmp_path / "input"))
    (reason,) = document["reasons"]
    assert reason.startswith("No RTT has a method of the filter. RTTs by method: ")
    assert "icmp_echo 1" in reason


def test_everything_in_the_line_of_all_others(ns: Namespace, tmp_path: Path) -> None:
    talks = [Conversation(number) for number in range(40)]
    (tmp_path / "many.pcap").write_bytes(pcap([each for talk in talks for each in talk.packets(*LINKS["ethernet"])]))
    document, error = batch(ns, "--max-subnets", "1", str(tmp_path / "many.pcap"))
    assert not error
    assert packets_of(document) == 40 * len(PACKETS)
    assert sum(row["n"] for row in document["networks"]) == 40 * (len(SERVER) + len(CLIENT))
    (others,) = (row for row in document["networks"] if row["kind"] == "overflow")
    assert others["impact"] is None
    assert document["summary"]["aggregated"] > 0.3


@pytest.mark.parametrize("step_s", [-3_600, -5, 7_200, 10 * 365 * 86_400])
def test_steps_of_the_clock_in_a_capture(ns: Namespace, tmp_path: Path, step_s: int) -> None:
    later = Conversation(2).packets(*LINKS["ethernet"], begin_ns=BEGIN_NS + step_s * SECOND)
    (tmp_path / "steps.pcap").write_bytes(pcap([*PACKETS, *later]))
    document, error = batch(ns, str(tmp_path / "steps.pcap"))
    assert not error
    assert packets_of(document) == 2 * len(PACKETS)
    assert sum(row["n"] for row in document["networks"]) == 2 * (len(SERVER) + len(CLIENT))
    for row in document["networks"]:
        assert row["max"] <= 31
        assert row["load"] is None
    assert 0 < document["seconds"] < 3_700


def test_standard_input(ns: Namespace, tmp_path: Path) -> None:
    (tmp_path / "talk.pcap").write_bytes(WHOLE)
    with (tmp_path / "talk.pcap").open("rb") as file:
        command = [*COMMAND, "top", *SMALL, "-b", "-"]
        process = ns.popen(command, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment({}))
        output, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (0, "")
    assert output.startswith("standard input, ")
    assert TALK.server in output
    assert "the screen reads keys from standard input: use --batch" in said(epping(ns, "top", "-"))


def test_times_far_apart_are_packets_of_one_session(ns: Namespace, tmp_path: Path) -> None:
    packets = [Packet(each.time_ns - BEGIN_NS, *each[1:]) for each in PACKETS]
    (tmp_path / "zero.pcap").write_bytes(pcap(packets))
    document, error = batch(ns, str(tmp_path / "zero.pcap"))
    assert not error
    assert packets_of(document) == len(PACKETS)
