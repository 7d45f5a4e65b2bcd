# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping report` as a user runs it: sources, formats, live measurements, errors and interruptions."""

import base64
import gzip
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.networks.pseudonyms import Pseudonyms, redacted_notes
from otel_epping.otel import semconv
from tests.history.otlp_lines import attributes, durations, line, rtts, write
from tests.support.captures import pcap
from tests.support.command import COMMAND, converse, environment, epping, said
from tests.support.conversation import CLIENT, SERVER, Conversation
from tests.support.link_types import LINKS
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.parallel

ALL = ("--sample-interval", "0", "--max-subnets", "1000", "--max-flows", "1000")
TALK, OTHER = Conversation(1), Conversation(2, 6)


@pytest.fixture
def good(tmp_path: Path) -> str:
    (tmp_path / "good.pcap").write_bytes(pcap(TALK.packets(*LINKS["ethernet"])))
    return str(tmp_path / "good.pcap")


@pytest.fixture
def other(tmp_path: Path) -> str:
    (tmp_path / "other.pcap").write_bytes(pcap(OTHER.packets(*LINKS["ethernet"])))
    return str(tmp_path / "other.pcap")


def data_of(ns: Namespace, *arguments: str) -> Any:
    """Return the JSON of a report."""
    result = epping(ns, "report", *ALL, *arguments, "-o", "-", "--format", "json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", ["page.html", "page.md", "page.json", "page"])
def test_the_format_follows_the_name(ns: Namespace, good: str, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    result = epping(ns, "report", *ALL, good, "-o", str(path))
    assert result.returncode == 0
    assert (result.stdout, result.stderr.count("\n")) == ("", 3)
    assert f"wrote {path}" in result.stderr
    starts = {".md": "# Network latency: good.pcap", ".json": '{"version":1'}
    assert path.read_text().startswith(starts.get(path.suffix, "<!DOCTYPE html>"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir() if each.name != "good.pcap"] == [name]


def test_a_page_is_utf_8_in_each_locale(good: str, tmp_path: Path) -> None:
    good = str(Path(good).rename(tmp_path / "Müller.pcap"))
    settings = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    command = [*COMMAND, "report", *ALL, good, "-o", "-"]
    page = subprocess.run(command, env=environment(settings), capture_output=True, check=True).stdout.decode()
    assert not page.isascii()
    assert "Müller.pcap" in page


@pytest.mark.parametrize("suffix", [".html", ".md", ".json"])
def test_names_that_are_not_utf_8_are_escaped(ns: Namespace, good: str, tmp_path: Path, suffix: str) -> None:
    latin, page = tmp_path / os.fsdecode(b"M\xfcller.pcap"), tmp_path / os.fsdecode(b"M\xfcller" + suffix.encode())
    latin.write_bytes(Path(good).read_bytes()[:-1])  # a note names the damaged file
    result = epping(ns, "report", *ALL, str(latin), "-o", str(page))
    assert result.stderr.splitlines()[-1].startswith(f"otel-epping: wrote {tmp_path}/M\\xfcller{suffix} (")
    content = page.read_text().replace("\\\\", "\\")
    assert content.count("M\\xfcller.pcap") >= 2
    assert "\\udcfc" not in content


def test_two_sources_are_compared_or_added_up(ns: Namespace, good: str, other: str) -> None:
    both = data_of(ns, good, other)
    assert both["sections"]["comparison"]
    assert both["about"]["source"] == "good.pcap against other.pcap"
    merged = data_of(ns, good, other, "--merge")
    assert "comparison" not in merged["sections"]
    assert merged["about"]["networks"] == "4 networks"


def test_an_archive_of_epping(ns: Namespace, good: str, tmp_path: Path) -> None:
    events = epping(ns, "replay", *ALL, "--events", "--format", "jsonl", good)
    archive = tmp_path / "archive.jsonl"
    archive.write_text(events.stdout)
    assert data_of(ns, str(archive))["about"]["samples"] == data_of(ns, good)["about"]["samples"]


def test_groups(ns: Namespace, good: str, tmp_path: Path) -> None:
    """The lines are groups, for sources that are measured in groups and for other sources."""
    (tmp_path / "networks.csv").write_text(f"cidr,name\n{TALK.client},Miller\n{TALK.server},Miller\n")
    options = ("--networks", str(tmp_path / "networks.csv"), "--group-by", "name")
    measured = data_of(ns, good, *options)["sections"]["worst_networks"]["tables"]["networks"]["rows"]
    assert [row["network"] for row in measured] == ["Miller"]
    assert measured[0]["samples"] == len(SERVER) + len(CLIENT)
    (tmp_path / "events.jsonl").write_text(epping(ns, "replay", *ALL, "--events", "--format", "jsonl", good).stdout)
    grouped = data_of(ns, str(tmp_path / "events.jsonl"), *options)["sections"]["worst_networks"]["tables"]
    (row,) = grouped["networks"]["rows"]
    assert row["samples"] == len(SERVER) + len(CLIENT)


SECRET = "geheim"
SECRETS = re.compile("geheim|198[.]51[.]100|203[.]0[.]113|64999|good[.]pcap", re.IGNORECASE)


def assert_hides(format: str, content: str) -> None:
    """Fail if the output has a secret. The data of figures in a page are compressed."""
    packed = re.findall('id="data">(.*?)</script>', content) if format == "html" else []
    for text in (content, *(gzip.decompress(base64.b64decode(each)).decode() for each in packed)):
        assert SECRETS.findall(text) == []
        assert "-1" in text


def secret_recording(folder: Path) -> str:
    """Write a file in which all names of two agents have SECRET, with a line and a metric that are not used."""
    place = {semconv.AS_NUMBER: 64999, semconv.AS_ORGANIZATION: f"{SECRET} AG", semconv.INTERFACE: f"{SECRET}0"}
    tags = {f"{semconv.NETWORK_TAG}.site": f"{SECRET} value"}
    names: list[dict[str, Any]] = [{semconv.SUBNET: "198.51.100.0/24"}, {semconv.SUBNET: "203.0.113.0/24"}]
    names += [{semconv.NETWORK_NAME: f"{SECRET} Ltd"} | tags, {semconv.SIDE: "internal"}, tags]
    points = [rtts("", 0, 60, ["30"]) | {"attributes": attributes(**{semconv.METHOD: "tcp_timestamp"} | place | each)}
              for each in names]  # fmt: skip
    other = durations(points[0]) | {"name": f"{SECRET}.metric"}
    lines = [line(durations(*points), other, agent=f"{SECRET}{n}", **{"host.name": SECRET}) for n in range(2)]
    (folder / SECRET).mkdir()
    return str(write(folder / SECRET, *lines, f'{{"resourceMetrics": {SECRET}', name=f"{SECRET}.jsonl"))


@pytest.mark.parametrize("format", ["html", "markdown", "json"])
def test_a_redacted_report_has_no_names_at_all(ns: Namespace, tmp_path: Path, format: str) -> None:
    path = secret_recording(tmp_path)
    result = epping(ns, "report", path, "--redact", "--format", format, "-o", "-")
    assert (result.returncode, result.stderr) == (0, "")
    assert "source-1: 1 line is not used" in result.stdout.replace("\\", "")
    assert "agent-1" in result.stdout.replace("\\", "")
    assert_hides(format, result.stdout)


@pytest.mark.parametrize("format", ["table", "csv", "json"])
def test_a_redacted_table_of_top_has_no_names(ns: Namespace, good: str, tmp_path: Path, format: str) -> None:
    (tmp_path / "networks.csv").write_text(f"cidr,name,site\n{TALK.client},{SECRET} Ltd,{SECRET} value\n")
    options = ("--networks", str(tmp_path / "networks.csv"), "--network-tags", "site", "--filter", f"name:{SECRET}")
    (tmp_path / SECRET).mkdir()
    path = Path(good).rename(tmp_path / SECRET / f"{SECRET}.pcap")
    result = epping(ns, "top", "-b", *ALL, *options, str(path), str(path), "--redact", "--format", format)
    assert (result.returncode, result.stderr) == (0, "")
    assert_hides(format, result.stdout)
    assert TALK.server not in result.stdout


@pytest.mark.parametrize("group_by", ["name", "asn", "country", "site"])
def test_a_recording_is_grouped_by_its_own_attributes(ns: Namespace, good: str, tmp_path: Path, group_by: str) -> None:
    """Neither a database nor a file of networks is needed."""
    key, value = {
        "name": (semconv.NETWORK_NAME, "Miller"), "asn": (semconv.AS_NUMBER, 64999),
        "country": (semconv.COUNTRY, "DE"), "site": (f"{semconv.NETWORK_TAG}.site", "Hill"),
    }[group_by]  # fmt: skip
    points = [rtts(f"10.0.{n}.0/24", 0, 60, ["30"]) for n in range(2)]
    without = str(write(tmp_path, line(durations(*points)), name="without.jsonl"))
    for point in points:
        point["attributes"] += attributes(**{key: value})
    given = str(write(tmp_path, line(durations(*points))))
    (row,) = data_of(ns, given, "--group-by", group_by)["sections"]["worst_networks"]["tables"]["networks"]["rows"]
    assert str(value) in row["network"]
    command = ("report", "-o", "-", "--group-by", group_by)
    missing = f"group_by is {group_by}, but no network of without.jsonl has this attribute: group by subnet"
    assert said(epping(ns, *command, without)) == missing
    assert "but there " in said(epping(ns, *command, good))


def test_redacted_notes() -> None:
    notes = [
        "http://h:9/p warns: name x",
        "prometheus+http://h:9/p?a=b is named several times",
        "the first is dir/a: cure",
    ]
    found = redacted_notes(notes, ["prometheus+http://h:9/p?a=b", "a", "dir/a"], Pseudonyms())
    assert found == ["source-1 warns", "source-1 is named several times", "the first is source-2: cure"]


def test_thresholds(ns: Namespace, good: str) -> None:
    found = data_of(ns, good, "--fair", "1ms", "--slow", "2ms", "--loss", "7")
    assert found["thresholds"] == {"fair_s": 0.001, "slow_s": 0.002, "loss": 0.07}
    result = epping(ns, "report", good, "--slow", "1ms", "-o", "-")
    assert "Option '--fair' must not be greater than '--slow'" in result.stderr
    result = epping(ns, "report", good, "--loss", "nan", "-o", "-")
    assert "Invalid value for '--loss': 'nan' is not a number" in result.stderr


def test_faults_of_the_output(ns: Namespace, good: str, tmp_path: Path) -> None:
    for path, cause in ((tmp_path, "Is a directory"), (tmp_path / "none" / "page.html", "No such file or directory"),
                        (Path("/dev/full"), "No space left on device")):  # fmt: skip
        assert f"cannot write {path}: {cause}" in said(epping(ns, "report", *ALL, good, "-o", str(path)))
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_failed_report_keeps_the_old_file(ns: Namespace, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("old")
    (tmp_path / "bad.pcap").write_text("no capture")
    assert "bad.pcap: is neither a capture" in said(epping(ns, "report", str(tmp_path / "bad.pcap"), "-o", str(page)))
    assert "the URL of Prometheus is invalid" in said(epping(ns, "report", "http://[::1", "-o", str(page)))
    assert "none: No such file" in said(epping(ns, "report", str(tmp_path / "none"), "-o", str(page)))
    (tmp_path / "empty.pcap").write_bytes(pcap([]))
    assert "no packet of a network was counted" in said(
        epping(ns, "report", str(tmp_path / "empty.pcap"), "-o", str(page))
    )
    assert page.read_text() == "old"
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", "bad.pcap", "empty.pcap"}


def test_a_link_is_followed(ns: Namespace, good: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").symlink_to(tmp_path / "real.html")
    epping(ns, "report", *ALL, good, "-o", str(tmp_path / "page.html"))
    assert (tmp_path / "page.html").is_symlink()
    assert (tmp_path / "real.html").read_text().startswith("<!DOCTYPE html>")


def start_live(
    ns: Namespace, page: Path, duration: str, *options: str, interface: str = "up0"
) -> "subprocess.Popen[str]":
    command = [*COMMAND, "report", *ALL, "-i", interface, "--duration", duration, "-o", str(page), *options]
    process = ns.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment({}))
    assert process.stderr
    while f"measuring {interface}" not in process.stderr.readline():
        assert process.poll() is None
    return process


def test_a_live_run(ns: Namespace, tmp_path: Path) -> None:
    page = tmp_path / "live.json"
    process = start_live(ns, page, "3s")
    with ns.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for _ in range(10):
            sender.sendto(b"x", ("10.9.0.255", 9))
    assert process.wait(PATIENCE_S) == 0
    about = json.loads(page.read_text())["about"]
    assert (about["source"], about["samples"]) == ("up0", "0 RTTs")  # nothing answers on this link


def test_a_live_run_follows_the_file_of_names(ns: Namespace, tmp_path: Path) -> None:
    names = tmp_path / "names.csv"
    names.write_text("cidr,name\n127.0.0.0/8,Miller\n")
    page = tmp_path / "live.json"
    process = start_live(ns, page, "1h", "--networks", str(names), interface="lo")
    names.write_text("cidr,name\n127.0.0.0/8,Okafor\n")
    time.sleep(3)  # the file is read again every second
    converse(ns)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) == 0
    assert "Okafor" in page.read_text()
    assert "Miller" not in page.read_text()


def test_ctrl_c_ends_a_live_run_early(ns: Namespace, tmp_path: Path) -> None:
    page = tmp_path / "live.html"
    process = start_live(ns, page, "1h")
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=PATIENCE_S)
    assert "Traceback" not in stderr
    # Nothing answers on this link, so there may be no packet at all.
    assert process.returncode == 0 or "no packet was seen on up0" in stderr
    assert page.exists() == (process.returncode == 0)


def test_ctrl_c_while_a_capture_is_read(ns: Namespace, tmp_path: Path) -> None:
    fifo, page = tmp_path / "fifo", tmp_path / "page.html"
    os.mkfifo(fifo)
    process = ns.popen([*COMMAND, "report", str(fifo), "-o", str(page)], stderr=subprocess.PIPE, env=environment({}))
    with fifo.open("wb"):
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, stderr) == (130, "otel-epping: stopped; nothing was written\n")
    assert not page.exists()
    assert list(tmp_path.iterdir()) == [fifo]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Missing option '-i' / '--interface', or '--lan', or '--mirror', or sources."),
        (("x.pcap", "-i", "up0"), "Choose either interfaces or sources."),
        (("-i", "missing0"), "missing0"),
    ],
)
def test_wrong_arguments(ns: Namespace, arguments: tuple[str, ...], message: str) -> None:
    result = epping(ns, "report", *arguments, "-o", "-")
    assert result.returncode != 0
    assert message in result.stderr
