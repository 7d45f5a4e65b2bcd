# SPDX-License-Identifier: Apache-2.0
"""`otel-epping replay` as a user runs it: its table, events and exports, and every way in which it can end."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest
from captures import BEGIN_NS, Packet, compressed, pcap, pcapng
from command import COMMAND, environment, epping, said
from conversation import CLIENT, SERVER, Conversation, check, rows_of
from linktypes import LINKS
from patience import PATIENCE_S

from otel_epping import telemetry
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.sink import Sink

SMALL = ("--max-subnets", "1000", "--max-flows", "1000")
ALL = ("--sample-interval", "0", *SMALL)
TALK, OTHER = Conversation(1), Conversation(2, 6)
PACKETS = TALK.packets(*LINKS["ethernet"])
RTTS = len(SERVER) + len(CLIENT)


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.pcap").write_bytes(pcap(PACKETS))
    return str(tmp_path / "good.pcap")


@pytest.fixture
def torn(tmp_path: Path) -> str:
    content = pcap(OTHER.packets(*LINKS["raw"]), link=101)
    (tmp_path / "torn.pcap").write_bytes(content[:-1])
    return str(tmp_path / "torn.pcap")


def test_the_table(ns: Namespace, good: str, tmp_path: Path) -> None:
    """Of several files, in different formats; what could not be measured is told below it."""
    odd = [Packet(BEGIN_NS + 10**9, bytes(60), 60), Packet(BEGIN_NS + 10**9, bytes(10), 60)]
    (tmp_path / "other.pcapng.gz").write_bytes(compressed(pcapng([*OTHER.packets(*LINKS["cooked v2"]), *odd])))
    result = epping(ns, "replay", *ALL, good, str(tmp_path / "other.pcapng.gz"))
    assert (result.returncode, result.stderr) == (0, "")
    for conversation in (TALK, OTHER):
        check(result.stdout, conversation)
    table, _, below = result.stdout.partition("\n\n")
    assert len(rows_of(table)) == 2 * RTTS
    lines = below.splitlines()
    assert lines[0].startswith("2 files: 22 packets of 1.000 s, replayed in ")
    assert lines[1] == f"RTTs begun: {2 * RTTS} = {2 * RTTS} measured"
    assert lines[2] == "TCP without timestamps: 0.0% of 12 packets"
    assert lines[3] == "packets that cannot be measured: 1 not IP, 1 cut within the link or IP header"
    assert lines[4].startswith("time goes back 1 times, by up to 0.307000 s: ")


def test_a_torn_file(ns: Namespace, good: str, torn: str) -> None:
    """What was read until there is the result; what comes after it isn't read. A terminal sees a bar meanwhile."""
    ours, theirs = pty.openpty()
    command = [*COMMAND, "replay", *ALL, torn, good]
    process = ns.popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment({}))
    os.close(theirs)
    stdout, _ = process.communicate(timeout=PATIENCE_S)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert process.returncode == 1
    assert {subnet for subnet, _ in rows_of(stdout)} == {OTHER.client, OTHER.server}
    assert "1 file: 9 packets" in stdout
    at = Path(torn).stat().st_size - len(OTHER.ip[-1][1]) - 16 + 1
    assert shown.splitlines()[-1] == f"otel-epping: {torn}: is cut short in the middle of a packet, at byte {at}"
    assert "replaying" in shown


def test_events(ns: Namespace, good: str, torn: str) -> None:
    """Each RTT at its time; an array is closed, however reading ends. What else there is to say goes elsewhere."""
    result = epping(ns, "replay", *ALL, "--events", "--format", "json", good, torn)
    assert result.returncode == 1
    *remarks, last = result.stderr.splitlines()
    assert remarks[0].startswith("2 files: 19 packets")
    assert last.startswith(f"otel-epping: {torn}: is cut short")
    events = json.loads(result.stdout)
    rtts = [(event["rtt"] / 1e6, event["src_ip"]) for event in events if "rtt" in event]
    talk = [(rtt, ip) for rtt, ip in rtts if "." in ip]
    assert sorted(talk) == sorted(
        [*((ms, "11.1.0.1") for ms in SERVER.values()), *((ms, "10.1.0.1") for ms in CLIENT.values())]
    )
    assert len(rtts) == 2 * RTTS - 1  # one echo reply is cut off
    assert {event["timestamp"] for event in events} <= {BEGIN_NS + at_ns for at_ns, _ in TALK.ip}
    assert [event["flow_event"] for event in events if "flow_event" in event].count("opening") >= 2


def test_export(ns: Namespace, good: str) -> None:
    """At the capture's times, once; and the table besides."""
    with Sink(namespace=ns) as sink:
        result = epping(
            ns, "replay", *ALL, "--otlp", good, settings={"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        )
        assert (result.returncode, result.stderr) == (0, "")
        check(result.stdout, TALK)
        points = sink.points(telemetry.RTT.name)
        assert len(points) == RTTS
        by_series = {(one.attributes[telemetry.SUBNET], one.attributes[telemetry.METHOD]): one for one in points}
        end_ns = BEGIN_NS + TALK.ip[-1][0]
        for subnet, methods in ((TALK.server, SERVER), (TALK.client, CLIENT)):
            for method, rtt_ms in methods.items():
                _, attributes, point, temporality = by_series[subnet, method]
                assert (point.count, point.sum, point.min, point.max) == (1, *[pytest.approx(rtt_ms / 1e3)] * 3)
                assert attributes[telemetry.SIDE] == "unknown"
                assert temporality == 2
                assert point.time_unix_nano == end_ns
                assert BEGIN_NS <= point.start_time_unix_nano <= end_ns
        for point in sink.points(telemetry.SUBNET_PACKETS.name):
            assert (point.point.start_time_unix_nano, point.point.time_unix_nano) == (BEGIN_NS, end_ns)


def test_an_export_that_fails(ns: Namespace, good: str) -> None:
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    result = epping(ns, "replay", *ALL, "--otlp", good, settings=settings)
    assert result.returncode == 1
    check(result.stdout, TALK)
    (line,) = result.stderr.splitlines()
    assert line.startswith("otel-epping: the result was not delivered, is OTEL_EXPORTER_OTLP_ENDPOINT right? ")


def test_ctrl_c(ns: Namespace) -> None:
    """What was read until then; a bar for what comes from a pipe there is not."""
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
        while rtts < RTTS:  # events are printed as they come
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
        (["/etc/passwd"], "/etc/passwd: is neither pcap nor pcapng"),
        (["--events", "--format", "xml", "x"], "Invalid value for '--format'"),
        ([], "Missing argument 'FILE...'"),
        (["--otlp", "x"], "OTEL_METRICS_EXPORTER: there is no exporter 'paper'"),
    ],
)
def test_what_is_wrong_at_once_is_told_at_once(ns: Namespace, arguments: list[str], cause: str) -> None:
    result = epping(ns, "replay", *arguments, settings={"OTEL_METRICS_EXPORTER": "paper"})
    assert said(result).startswith(cause)
