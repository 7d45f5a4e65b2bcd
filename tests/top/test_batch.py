# SPDX-License-Identifier: Apache-2.0
"""Tests the batch mode of `otel-epping top` as a user runs it, with captures and with real traffic."""

import csv
import io
import json
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.topology import WAN_INTERFACE, Lab
from otel_epping.lab.traffic import finish
from otel_epping.networks.pseudonyms import Pseudonyms, unchanged
from otel_epping.top.batch import Printer
from otel_epping.top.columns import COLUMNS
from otel_epping.top.filter import parse
from otel_epping.top.session import Session
from otel_epping.top.view import View
from tests.support.captures import pcap
from tests.support.command import epping, said
from tests.support.conversation import Conversation
from tests.support.link_types import LINKS
from tests.support.patience import PATIENCE_S, becomes
from tests.support.unprivileged import assert_holds_nothing, fields
from tests.top.provider import Provider

pytestmark = pytest.mark.parallel

SMALL = ("--max-subnets", "1000", "--max-flows", "1000")
TALKS = [Conversation(number) for number in range(12)]


@pytest.fixture
def capture(tmp_path: Path) -> str:
    packets = [packet for talk in TALKS for packet in talk.packets(*LINKS["ethernet"])]
    (tmp_path / "talks.pcap").write_bytes(pcap(packets))
    return str(tmp_path / "talks.pcap")


def printed(result: subprocess.CompletedProcess[str]) -> str:
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def document(ns: Namespace, *arguments: str) -> Any:
    return json.loads(printed(epping(ns, "top", *SMALL, "--batch", "--format", "json", *arguments)))


def rtts_of_replay(table: str) -> dict[str, int]:
    """Return the number of RTTs of each subnet in the table of `replay`."""
    found: dict[str, int] = {}
    subnet = ""
    for line in table.split("\n\n")[0].splitlines()[1:]:
        cells = line.split()
        if not line.startswith(" "):
            subnet, cells = cells[0], cells[1:]
        if not line.startswith("never"):
            found[subnet] = found.get(subnet, 0) + int(cells[1].replace(",", ""))
    return found


def test_the_formats_have_the_same_numbers_and_those_of_replay(ns: Namespace, capture: str) -> None:
    found = document(ns, capture)
    networks = {row["subnet"]: row for row in found["networks"] if row["kind"] == "network"}
    assert {subnet: row["n"] for subnet, row in networks.items()} == rtts_of_replay(
        printed(epping(ns, "replay", *SMALL, capture))
    )
    rows = list(csv.DictReader(io.StringIO(printed(epping(ns, "top", *SMALL, "-b", "--format", "csv", capture)))))
    assert [row["subnet"] for row in rows] == [row["subnet"] for row in found["networks"]]
    for row, other in zip(rows, found["networks"], strict=True):
        for column in COLUMNS:
            assert row[column.key] == ("" if other[column.key] is None else str(other[column.key]))
    table = printed(epping(ns, "top", *SMALL, "-b", capture))
    for subnet in networks:
        assert subnet in table
    impacts = [row["impact"] for row in found["networks"] if row["impact"] is not None]
    assert impacts == sorted(impacts, reverse=True)
    assert sum(impacts) == pytest.approx(100, abs=0.01)


def test_filter_order_and_pseudonyms(ns: Namespace, capture: str) -> None:
    first = document(ns, capture)["networks"][0]
    (only,) = document(ns, "--filter", f"net:{first['subnet']}", capture)["networks"]
    assert only == first
    by_p50 = [row["p50"] for row in document(ns, "--sort", "p50", capture)["networks"] if row["p50"]]
    assert by_p50 == sorted(by_p50, reverse=True)
    hidden = document(ns, "--redact", capture)["networks"]
    assert {row["subnet"] for row in hidden if row["kind"] == "network"} == {
        f"subnet-{number + 1}" for number in range(sum(row["kind"] == "network" for row in hidden))
    }


@pytest.mark.unit
@pytest.mark.parametrize("is_redacted", [False, True])
@pytest.mark.parametrize("group_by", ["subnet", "name", "asn", "country", "site"])
def test_each_row_has_the_group(group_by: str, is_redacted: bool) -> None:
    session = Session()
    session.add(Provider(session.history.numbering, 12).slice())
    frame = session.frame(None, group_by)
    view = View(group_by=group_by, show=Pseudonyms() if is_redacted else unchanged)
    rows = list(csv.DictReader(io.StringIO(Printer("csv", "wan0").output(frame, view))))
    found = json.loads(Printer("json", "wan0").output(frame, view))["networks"]
    groups = [row["group"] for row in rows]
    assert groups == [row["group"] for row in found]
    named = [group for group in groups if group]
    assert len(named) == len({*named})
    assert len(groups) - len(named) == {"subnet": 14, "name": 3, "asn": 2, "country": 2, "site": 3}[group_by]
    if is_redacted:
        assert {group.rpartition("-")[0] for group in named} <= {"group", "network"}
    elif group_by == "site":
        assert "Tower 3" in named


@pytest.mark.unit
def test_a_csv_table_without_rows_is_empty_and_pseudonyms_hide_the_filter() -> None:
    session = Session()
    session.add(Provider(session.history.numbering, 12).slice())
    frame, view = session.frame(None), View(filter=parse("n>1e9 name:customer"), show=Pseudonyms())
    printer = Printer("csv", "wan0")
    assert printer.output(frame, view).startswith("end_unix_nano,seconds,kind,group,")
    assert printer.output(frame, view) == ""
    assert json.loads(Printer("json", "wan0").output(frame, view))["filter"] == "(hidden)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "p96>3"], "p96>3: unknown column; columns are impact p50"),
        (["--sort", "p96"], "there is no column p96: columns are impact, p50"),
        (["-i", "lo"], "Choose either interfaces or capture files"),
    ],
)
def test_wrong_arguments_are_explained(ns: Namespace, capture: str, arguments: list[str], message: str) -> None:
    assert message in said(epping(ns, "top", "-b", *arguments, capture))


def test_tags_that_are_not_exported_can_be_filtered_and_grouped(ns: Namespace, capture: str, tmp_path: Path) -> None:
    (tmp_path / "nets.csv").write_text("cidr,name,dc,site\n0.0.0.0/0,all,dc1,tower\n")
    names = ("--networks", str(tmp_path / "nets.csv"), "--network-tags", "site")
    found = document(ns, *names, "--group-by", "dc", "--filter", "dc:dc1", capture)["networks"]
    assert "dc1" in [row["group"] for row in found]


def test_what_is_missing_is_explained(ns: Namespace, capture: str, tmp_path: Path) -> None:
    assert "Missing option '-i'" in said(epping(ns, "top", "-b"))
    assert "is not a terminal: use --batch" in said(epping(ns, "top", capture))
    assert "needs '-b'" in said(epping(ns, "top", "-n", "1", capture))
    assert "there is no interface 'nowhere'" in said(epping(ns, "top", "-b", "-n", "1", "-i", "nowhere"))
    (tmp_path / "text.pcap").write_text("this is not a capture, but a text")
    assert "text.pcap" in said(epping(ns, "top", "-b", str(tmp_path / "text.pcap")))


def test_an_empty_capture_says_so(ns: Namespace, tmp_path: Path) -> None:
    (tmp_path / "empty.pcap").write_bytes(pcap([]))
    assert "contains no packet" in printed(epping(ns, "top", *SMALL, "-b", str(tmp_path / "empty.pcap")))
    found = document(ns, str(tmp_path / "empty.pcap"))
    assert found["networks"] == []
    assert "contains no packet" in found["reasons"][0]


def test_the_batch_mode_needs_no_package_for_terminals(ns: Namespace, capture: str) -> None:
    hide = "import sys; sys.modules['textual'] = sys.modules['rich'] = None; from otel_epping.__main__ import main; "
    script = f"{hide}sys.argv = ['otel-epping', 'top', '-b', {capture!r}]; main()"
    assert "impact" in ns.run(sys.executable, "-c", script)


def test_an_interface_without_traffic_is_explained(ns: Namespace) -> None:
    found = document(ns, "-i", "up0", "-n", "1", "-d", "300ms")
    assert found["summary"]["networks"] == len([row for row in found["networks"] if row["kind"] == "network"])
    printed_rows = printed(epping(ns, "top", *SMALL, "-b", "-i", "up0", "-n", "3", "-d", "100ms", "--filter", "n>1e9",
                                  "--format", "csv"))  # fmt: skip
    assert printed_rows.count("\n") == 1
    if not found["networks"]:
        assert "No packet was seen on up0" in found["reasons"][0]


def test_live_tables_have_the_counts_of_their_time(lab: Lab) -> None:
    talking = lab.talk(lab.client)
    arguments = ["-b", "-n", "3", "-d", "2s", "--format", "json", "-i", WAN_INTERFACE]
    printed = lab.router.run(sys.executable, "-m", "otel_epping", "top", *SMALL, *arguments)
    finish(talking)
    documents = [json.loads(line) for line in printed.splitlines()]
    assert len(documents) == 3
    for before, after in pairwise(documents):
        assert after["begin_unix_nano"] == before["end_unix_nano"]
        assert 1.5 < after["seconds"] < 4
    subnets = {row["subnet"] for row in documents[-1]["networks"]}
    for network in lab.networks:
        assert str(network.subnet) in subnets
        (row,) = [each for each in documents[-1]["networks"] if each["subnet"] == str(network.subnet)]
        assert network.delay_ns / 1e6 <= row["min"] <= row["p50"] <= row["p95"] <= row["max"]
        assert row["loss"] == 0
        assert row["cover"] == 100


def handles(pid: int, number: signal.Signals) -> bool:
    """Return true if a process handles a signal. By default, Python handles only SIGINT."""
    return bool(int(fields(Path(f"/proc/{pid}/status"))["SigCgt"], 16) & 1 << number - 1)


def test_after_a_signal_the_rest_is_printed(ns: Namespace) -> None:
    command = [sys.executable, "-m", "otel_epping", "top", *SMALL, "-b", "-d", "1h", "--format", "json", "-i", "up0"]
    process = ns.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    becomes(lambda: handles(process.pid, signal.SIGALRM), True)  # process/signals.py: after the program is loaded
    assert_holds_nothing(process.pid)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (0, "")
    assert json.loads(stdout)["source"] == "up0"
