# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping replay` as a user runs it: table, events, exports, and all ways in which the command ends."""

import json
import os
import pty
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.support.captures import BEGIN_NS, Packet, compressed, enhanced, interface, option, pcap, pcapng, section
from tests.support.command import COMMAND, environment, epping, said
from tests.support.conversation import CLIENT, SERVER, Conversation, check, rows_of
from tests.support.link_types import LINKS
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.parallel


SMALL = ("--max-subnets", "1000", "--max-flows", "1000")
ALL = ("--sample-interval", "0", *SMALL)
TALK, OTHER = Conversation(1), Conversation(2, 6)
PACKETS = TALK.packets(*LINKS["ethernet"])
RTTS = len(SERVER) + len(CLIENT)
ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f]*:")


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.pcap").write_bytes(pcap(PACKETS))
    return str(tmp_path / "good.pcap")


@pytest.fixture
def truncated(tmp_path: Path) -> str:
    content = pcap(OTHER.packets(*LINKS["raw"]), link=101)
    (tmp_path / "truncated.pcap").write_bytes(content[:-1])
    return str(tmp_path / "truncated.pcap")


def test_the_table(ns: Namespace, good: str, tmp_path: Path) -> None:
    """The files have different formats. Below the table, the output lists the packets that cannot be measured."""
    odd = [Packet(BEGIN_NS + 10**9, bytes(60), 60), Packet(BEGIN_NS + 10**9, bytes(10), 60)]
    (tmp_path / "other.pcapng.gz").write_bytes(compressed(pcapng([*OTHER.packets(*LINKS["cooked v2"]), *odd])))
    result = epping(ns, "replay", *ALL, good, str(tmp_path / "other.pcapng.gz"))
    assert (result.returncode, result.stderr) == (0, "")
    for conversation in (TALK, OTHER):
        check(result.stdout, conversation)
    table, _, below = result.stdout.partition("\n\n")
    assert len(rows_of(table)) == 2 * RTTS
    lines = below.splitlines()
    assert lines[0].startswith("2 files: 22 packets spanning 1.000 s, replayed in ")
    assert lines[1] == f"RTT samples started: {2 * RTTS} = {2 * RTTS} measured"
    assert lines[2] == "TCP packets without timestamps: 0.0% of 12"
    assert lines[3] == "packets that cannot be measured: 1 not IP, 1 truncated within a header by the snap length"
    assert lines[4].startswith("packets with an earlier timestamp than the previous packet: 1, by up to 0.307000 s; ")
    assert lines[5].startswith(
        f"1 file starts before an earlier file ends, the first such file is {tmp_path}/other.pcapng.gz: "
    )


def test_a_truncated_file(ns: Namespace, good: str, truncated: str) -> None:
    """The complete part of a truncated file is read. All other files are read, too.

    On a terminal, a progress bar is shown.
    """
    ours, theirs = pty.openpty()
    command = [*COMMAND, "replay", *ALL, truncated, good]
    process = ns.popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment({}))
    os.close(theirs)
    stdout, _ = process.communicate(timeout=PATIENCE_S)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert process.returncode == 1
    assert {subnet for subnet, _ in rows_of(stdout)} == {OTHER.client, OTHER.server, TALK.client, TALK.server}
    assert "2 files: 19 packets" in stdout
    at = Path(truncated).stat().st_size - len(OTHER.ip[-1][1]) - 16 + 1
    assert shown.splitlines()[-1] == f"otel-epping: {truncated}: is truncated in the middle of a packet, at byte {at}"
    assert "replaying" in shown


def test_files_that_cannot_be_read_do_not_stop_the_others(
    ns: Namespace, good: str, truncated: str, tmp_path: Path
) -> None:
    """For each unreadable file, the command prints an error line, no matter where the file is in the list.

    The result contains the packets of all readable files.
    """
    (tmp_path / "usb.pcap").write_bytes(pcap(PACKETS, link=220))
    (tmp_path / "empty.pcap").touch()
    usb, empty, nothing = (str(tmp_path / f"{name}.pcap") for name in ("usb", "empty", "nothing"))
    result = epping(ns, "replay", *ALL, nothing, truncated, usb, str(tmp_path), good, empty)
    assert result.returncode == 1
    assert {subnet for subnet, _ in rows_of(result.stdout)} == {OTHER.client, OTHER.server, TALK.client, TALK.server}
    assert "\n2 files: 19 packets spanning " in result.stdout
    lines = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [nothing, truncated, usb, str(tmp_path), empty]


def test_no_readable_file(ns: Namespace, tmp_path: Path) -> None:
    """The command prints an error line for each file.

    The command prints the error lines before it compiles the program, because the compilation takes a second.
    """
    names = [str(tmp_path / name) for name in "ab"]
    result = epping(ns, "replay", *names)
    assert result.returncode == 1
    assert not result.stdout
    assert result.stderr.splitlines() == [f"otel-epping: {name}: No such file or directory" for name in names]


def test_a_file_named_twice_is_read_once(ns: Namespace, good: str, tmp_path: Path) -> None:
    """Several paths may name the same file. The command reads the file only once."""
    (tmp_path / "link.pcap").symlink_to(good)
    (tmp_path / "same.pcap").hardlink_to(good)
    result = epping(ns, "replay", *ALL, good, str(tmp_path / "link.pcap"), str(tmp_path / "same.pcap"), good)
    assert (result.returncode, result.stderr) == (0, "")
    check(result.stdout, TALK)
    lines = result.stdout.splitlines()
    assert "1 file: 10 packets" in result.stdout
    assert lines[-3:] == [
        f"{path} is the same file as an earlier file, and was read once"
        for path in (tmp_path / "link.pcap", tmp_path / "same.pcap", good)
    ]


def test_files_out_of_order(ns: Namespace, tmp_path: Path) -> None:
    """A shell sorts the files of `tcpdump -C` by name, so capture10 comes before capture2."""
    for number in (1, 2, 10):
        later = [
            one._replace(time_ns=one.time_ns + number * 10**9) for one in Conversation(number).packets(*LINKS["raw"])
        ]
        (tmp_path / f"capture{number}").write_bytes(pcap(later, link=101))
    files = [str(tmp_path / f"capture{number}") for number in (1, 10, 2)]
    result = epping(ns, "replay", *ALL, *files)
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == (
        f"1 file starts before an earlier file ends, the first such file is {files[2]}: "
        "name the files in the order of time, or merge them with mergecap"
    )
    assert "before an earlier file" not in epping(ns, "replay", *ALL, files[0], files[2], files[1]).stdout


def test_packets_truncated_by_the_snap_length(ns: Namespace, tmp_path: Path) -> None:
    """A packet that was truncated within a header is not malformed.

    A complete packet that ends within a header is malformed.
    """
    whole = [one for one in PACKETS if len(one.data) > 60]
    cut = [one._replace(data=one.data[:50]) for one in whole]
    malformed = [one._replace(data=one.data[:50], original=50) for one in whole[:2]]
    runts = [one._replace(data=one.data[:16], original=16) for one in whole[:3]]
    (tmp_path / "capture").write_bytes(pcap([each for pair in zip(cut, PACKETS, strict=False) for each in pair]))
    (tmp_path / "odd").write_bytes(pcap([*malformed, *runts, *(one._replace(data=one.data[:20]) for one in whole[:4])]))
    result = epping(ns, "replay", *ALL, str(tmp_path / "capture"))
    tcp = sum(one.data[23] == 6 for one in whole)
    assert 0 < tcp < len(whole)
    assert f"packets that cannot be measured: {tcp} truncated within a header by the snap length\n" in result.stdout
    result = epping(ns, "replay", *ALL, str(tmp_path / "odd"))
    assert (
        "packets that cannot be measured: 2 malformed, 4 truncated within a header by the snap length, "
        "3 shorter than a link or IP header\n"
    ) in result.stdout


def test_invalid_times_give_no_rtt(ns: Namespace, tmp_path: Path) -> None:
    """In the first file, the times are microseconds, but the file declares seconds. So the times in the first file are
    invalid.

    In the second file, all times are equal. Equal times are valid, and give an RTT.
    """
    parts = [section(), interface(options=option(9, b"\x00") + option(0, b""))]
    parts += [enhanced(one, ticks=one.time_ns // 1000) for one in PACKETS]
    (tmp_path / "capture").write_bytes(b"".join(parts))
    result = epping(ns, "replay", *ALL, str(tmp_path / "capture"))
    assert result.returncode == 0
    assert set(rows_of(result.stdout)) == {("never answered (2 subnets)", "-")}
    assert "packets that cannot be measured: 10 without a valid timestamp" in result.stdout
    (tmp_path / "capture").write_bytes(pcap([one._replace(time_ns=BEGIN_NS) for one in PACKETS]))
    result = epping(ns, "replay", *ALL, str(tmp_path / "capture"))
    assert {cells[1] for cells in rows_of(result.stdout).values()} == {"0.001"}
    assert "counted as the nearest limit: 6\n" in result.stdout


@pytest.mark.parametrize("make", ["fifo", "device"])
def test_a_fifo_and_a_device(ns: Namespace, good: str, tmp_path: Path, make: str) -> None:
    content = Path(good).read_bytes()
    if make == "fifo":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
        writer = threading.Thread(target=lambda: Path(path).write_bytes(content))
        writer.start()
        result = epping(ns, "replay", *ALL, path)
        writer.join()
        assert (result.returncode, result.stderr) == (0, "")
        check(result.stdout, TALK)
    else:
        assert said(epping(ns, "replay", *ALL, "/dev/null")) == "/dev/null: is empty"


def test_events(ns: Namespace, good: str, truncated: str) -> None:
    """Each RTT event has its own time. Even after an error, the JSON array is closed. Messages go to standard error."""
    result = epping(ns, "replay", *ALL, "--events", "--format", "json", good, truncated)
    assert result.returncode == 1
    *remarks, last = result.stderr.splitlines()
    assert remarks[0].startswith("2 files: 19 packets")
    assert last.startswith(f"otel-epping: {truncated}: is truncated")
    events = json.loads(result.stdout)
    rtts = [(event["rtt"] / 1e6, event["src_ip"]) for event in events if "rtt" in event]
    talk = [(rtt, ip) for rtt, ip in rtts if "." in ip]
    assert sorted(talk) == sorted(
        [*((ms, "11.1.0.1") for ms in SERVER.values()), *((ms, "10.1.0.1") for ms in CLIENT.values())]
    )
    assert len(rtts) == 2 * RTTS - 1  # the file ends in the middle of an echo reply
    assert {event["timestamp"] for event in events} <= {BEGIN_NS + at_ns for at_ns, _ in TALK.ip}
    assert [event["flow_event"] for event in events if "flow_event" in event].count("opening") >= 2


def test_redacted_output(ns: Namespace, good: str) -> None:
    """The table and the events are the same as without --redact, except addresses. File names stay."""
    plain, redacted = (epping(ns, "replay", *ALL, *option, good) for option in ((), ("--redact",)))
    assert (redacted.returncode, redacted.stderr) == (0, "")
    rows, redacted_rows = rows_of(plain.stdout), rows_of(redacted.stdout)
    assert {subnet for subnet, _ in redacted_rows} == {"subnet-1", "subnet-2"}
    # The subnets have different methods and RTTs.
    assert sorted((method, cells) for (_, method), cells in rows.items()) == sorted(
        (method, cells) for (_, method), cells in redacted_rows.items()
    )
    assert not ADDRESS.search(redacted.stdout)

    events = ("--events", "--format", "jsonl")
    plain, redacted = (epping(ns, "replay", *ALL, *events, *option, good) for option in ((), ("--redact",)))
    text = plain.stdout
    for address in {event["src_ip"] for event in map(json.loads, text.splitlines())}:
        pseudonym = json.loads(redacted.stdout.splitlines()[text[: text.index(f'"src_ip":"{address}"')].count("\n")])
        text = text.replace(f'"{address}"', f'"{pseudonym["src_ip"]}"')
    assert redacted.stdout == text
    assert not ADDRESS.search(redacted.stdout + redacted.stderr)

    refused = epping(ns, "replay", *ALL, "--redact", "--otlp", good)
    assert refused.returncode == 2
    assert "Choose either --redact or --otlp: exported data contains addresses and names." in refused.stderr


def test_export(ns: Namespace, good: str) -> None:
    """All counts are exported exactly once, with the times in the capture. The table is printed, too."""
    with Sink(namespace=ns) as sink:
        result = epping(
            ns, "replay", *ALL, "--otlp", good, settings={"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        )
        assert (result.returncode, result.stderr) == (0, "")
        check(result.stdout, TALK)
        points = sink.points(metric_table.RTT.name)
        assert len(points) == RTTS
        by_series = {(one.attributes[semconv.SUBNET], one.attributes[semconv.METHOD]): one for one in points}
        end_ns = BEGIN_NS + TALK.ip[-1][0]
        for subnet, methods in ((TALK.server, SERVER), (TALK.client, CLIENT)):
            for method, rtt_ms in methods.items():
                _, attributes, point, temporality = by_series[subnet, method]
                assert (point.count, point.sum, point.min, point.max) == (1, *[pytest.approx(rtt_ms / 1e3)] * 3)
                assert attributes[semconv.SIDE] == "unknown"
                assert temporality == 2
                assert point.time_unix_nano == end_ns
                assert BEGIN_NS <= point.start_time_unix_nano <= end_ns
        for point in sink.points(metric_table.SUBNET_PACKETS.name):
            assert (point.point.start_time_unix_nano, point.point.time_unix_nano) == (BEGIN_NS, end_ns)


def test_the_settings_of_exports_apply(ns: Namespace, good: str) -> None:
    with Sink(namespace=ns) as sink:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        options = ("--metrics", "rtt", "--attributes", "rtt=side,method", "--max-series", "9")
        result = epping(ns, "replay", *ALL, *options, "--otlp", good, settings=settings)
        assert (result.returncode, result.stderr) == (0, "")
        points = sink.points(metric_table.RTT.name)
        assert sum(one.point.count for one in points) == RTTS
        assert {frozenset(one.attributes) for one in points} == {frozenset({semconv.SIDE, semconv.METHOD})}
        assert not sink.points(metric_table.SUBNET_PACKETS.name)


def test_a_failed_export(ns: Namespace, good: str) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    result = epping(ns, "replay", *ALL, "--otlp", good, settings=settings)
    assert result.returncode == 1
    check(result.stdout, TALK)
    (line,) = result.stderr.splitlines()
    assert line.startswith("otel-epping: the result was not exported: ")


def test_ctrl_c(ns: Namespace) -> None:
    """The result has all packets that were read before the signal. For a pipe, the command shows no progress bar."""
    command = [*COMMAND, "replay", *ALL, "-", "--events", "--format", "jsonl"]
    process = ns.popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment({})
    )
    assert process.stdin
    assert process.stdout
    assert process.stderr
    with process:
        os.write(process.stdin.fileno(), pcap(PACKETS))
        rtts = 0
        while rtts < RTTS:  # the command prints each event without delay
            rtts += "rtt" in json.loads(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, stderr = process.stdout.read(), process.stderr.read()
    assert process.returncode == 130
    assert "rtt" not in rest
    assert stderr.startswith("1 file: 10 packets")
    assert "otel-epping" not in stderr


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["nothing.pcap"], "nothing.pcap: No such file or directory"),
        (["/etc/passwd"], "/etc/passwd: is text: replay reads binary captures, like the output of tcpdump -w"),
        (["/etc"], "/etc: is a directory; name the files in it: /etc/*"),
        (["--events", "--format", "xml", "x"], "Invalid value for '--format'"),
        ([], "Missing argument 'FILE...'"),
        (["--otlp", "x"], "OTEL_METRICS_EXPORTER: there is no exporter 'paper'"),
    ],
)
def test_errors_in_arguments_are_reported_at_once(ns: Namespace, arguments: list[str], cause: str) -> None:
    result = epping(ns, "replay", *arguments, settings={"OTEL_METRICS_EXPORTER": "paper"})
    assert said(result).startswith(cause)
