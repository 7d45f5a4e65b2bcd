# SPDX-License-Identifier: Apache-2.0
"""Tests histories that are read from the JSON output of ePPing."""

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_epping.errors import EppingError
from otel_epping.events.formats import EventWriter
from otel_epping.events.ring_buffer import RTT
from otel_epping.history.history import History
from otel_epping.history.line import OVERFLOW, Line
from otel_epping.history.sources.pping import read_pping
from otel_epping.history.sources.reading import InputFile
from otel_epping.kernel.buckets import edge_ns
from otel_epping.otel import metric_table

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

S, MS = 10**9, 10**6
T0 = 1_700_000_000 * S
V4, V6 = Line(subnet="192.0.2.0/24", network_type="ipv4"), Line(subnet="2001:db8::/48", network_type="ipv6")
METADATA = {
    "timestamp": T0,
    "bins": 250,
    "bin_width_ns": 4 * MS,
    "aggregation_interval_ns": 10 * S,
    "timeout_interval_ns": 30 * S,
    "ipv4_prefix_len": 24,
    "ipv6_prefix_len": 48,
}
COUNTERS = {
    "timestamp": T0 + 10 * S + 3,
    "protocol_counters": {"TCP": {"packets": 7, "bytes": 700}, "GRE": {"packets": 2}, "ICMPv6": {"packets": 1}},
    "ecn_counters": {"no_ECT": 9, "CE": 1},
    "errors": {"create_flow_state": 4},
}


def subnet(at: int, prefix: str, counts: list[int] | None = None, **others: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "timestamp": T0 + at * S,
        "ip_prefix": prefix,
        "rx_stats": {"TCP_TS": {"packets": 3, "bytes": 300}, "TCP_noTS": {}, "other": {"packets": 1, "bytes": 50}},
        "tx_stats": {"TCP_TS": {}, "TCP_noTS": {"packets": 2, "bytes": 80}, "other": {}},
    }
    if counts:
        middles = [(number + 0.5) * 4 * MS for number in range(len(counts))]
        mean = sum(n * each for n, each in zip(counts, middles, strict=True)) / sum(counts)
        found |= {"count_rtt": sum(counts), "min_rtt": 3 * MS, "mean_rtt": mean, "median_rtt": mean, "p95_rtt": mean}
        found |= {"max_rtt": 4 * MS * len(counts) - MS, "histogram": counts}
    return found | others


def read(path: Path, text: str) -> History:
    path.write_text(text)
    return read_pping([InputFile(str(path))])


def rtts(history: History, line: Line) -> tuple[int, int, int, int]:
    """Returns the number of the RTTs of a line, and the sum, the minimum and the maximum in ns."""
    number, found = history.lines.index(line), history.total().rtts()
    return tuple(  # type: ignore[return-value]
        int(each[number]) for each in (found.counts, found.sum_ns, found.min_ns, found.max_ns)
    )


REPORT = [
    METADATA,
    subnet(10, "192.0.2.0/24", [2, 0, 5, 1]),
    subnet(10, "2001:db8::/48"),
    subnet(10, "0.0.0.0/0", [1]),
    COUNTERS,
    subnet(20, "192.0.2.0/24", [4]),
]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(REPORT),
        json.dumps(REPORT, indent=4),
        json.dumps(REPORT, separators=(",", ":")),
        json.dumps(REPORT)[:-1],  # the end of the array is missing, as if ePPing was killed
        "".join(f"{json.dumps(each)}\n" for each in REPORT),
    ],
)
def test_aggregated_output(tmp_path: Path, text: str) -> None:
    history = read(tmp_path / "file", text)
    assert rtts(history, V4) == (12, 16 * MS * 0 + 2 * 2 * MS + 5 * 10 * MS + 14 * MS + 4 * 2 * MS, 3 * MS, 15 * MS)
    assert rtts(history, Line(OVERFLOW))[0] == 1
    total = history.total()
    assert total.seconds == 20
    assert [(each.begin_ns, each.end_ns) for each in history.over_time()] == [
        (T0, T0 + 10 * S),
        (T0 + 10 * S, T0 + 20 * S),
    ]
    packets = total.sum(metric_table.SUBNET_PACKETS.name, direction="from", traffic_class="tcp_timestamp")
    octets = total.sum(metric_table.SUBNET_BYTES.name, direction="to", traffic_class="tcp_other")
    assert packets is not None
    assert octets is not None
    assert dict(zip(history.lines, packets.tolist(), strict=True)) == {V4: 6, V6: 3, Line(OVERFLOW): 3}
    assert dict(zip(history.lines, octets.tolist(), strict=True)) == {V4: 160, V6: 80, Line(OVERFLOW): 80}
    assert total.agent_sum(metric_table.INTERFACE_PACKETS.name) == 10
    assert total.agent_sum(metric_table.INTERFACE_PACKETS.name, kind="other") == 2
    assert total.agent_sum(metric_table.ECN_PACKETS.name, ecn="ce") == 1
    assert total.agent_sum(metric_table.INSERT_FAILED.name, map="flows") == 4
    assert history.notes == [
        "ePPing counted RTTs in bins of 4 ms, so RTTs and their quantiles have an error of up to 2 ms; "
        "minimum and maximum are exact"
    ]


def test_each_bin_is_in_the_bucket_of_its_middle(tmp_path: Path) -> None:
    counts = [number % 7 for number in range(250)]
    long = subnet(10, "192.0.2.0/24", counts, min_rtt=5 * MS, max_rtt=30 * S)
    history = read(tmp_path / "file", json.dumps([METADATA, long]))
    first, found = history.total().rtts().buckets.run(history.lines.index(V4))
    assert found.sum() == sum(counts)
    for place, count in enumerate(found.tolist()):
        edges = edge_ns(first + place, 4), edge_ns(first + place + 1, 4)
        inside = sum(n for number, n in enumerate(counts[:249]) if edges[0] < (4 * number + 2) * MS <= edges[1])
        if edges[1] > 5 * S:
            inside += counts[249]  # the last bin: 996 ms to 30 s
            if not edges[0] < (996 * MS + 30 * S) // 2 <= edges[1]:
                inside = 0
        if edges[0] > 8 * MS:  # the minimum is in the second bin
            assert count == inside


def test_the_bin_width_is_in_the_metadata(tmp_path: Path) -> None:
    history = read(tmp_path / "file", json.dumps([METADATA | {"bin_width_ns": MS}, subnet(10, "192.0.2.0/24", [1])]))
    assert "bins of 1 ms" in history.notes[0]


def test_output_before_october_2023(tmp_path: Path) -> None:
    old = {"timestamp": T0, "ip_prefix": "192.0.2.0/24", "rx_packets": 1, "tx_packets": 2, "rx_bytes": 3, "tx_bytes": 4}
    total = read(tmp_path / "file", json.dumps([old])).total()
    found = [total.sum(metric_table.SUBNET_BYTES.name, direction=each) for each in ("from", "to")]
    assert [each.tolist() for each in found if each is not None] == [[4], [3]]


def events(format: str) -> str:
    """Returns output of `watch`: an RTT of 10 ms in each second, and an RTT over IPv6."""
    fields = [("time_ns", "u8"), ("rtt_ns", "u8"), ("min_rtt_ns", "u8"), ("sent_packets", "u8"), ("sent_bytes", "u8")]
    fields += [("received_packets", "u8"), ("received_bytes", "u8")]
    kinds: list[Any] = [*fields, ("source", [("b", "u8", (2,))]), ("destination", [("b", "u8", (2,))])]
    kinds += [("source_port", "u2"), ("destination_port", "u2")]
    kinds += [(name, "u1") for name in ("type", "reason", "trigger", "method", "protocol", "family", "egress")]
    rows: Any = np.zeros(3601, np.dtype(kinds))
    rows["time_ns"], rows["rtt_ns"] = T0 + np.arange(3601) * S, 10 * MS
    rows["type"], rows["protocol"], rows["family"] = RTT, 6, 4
    rows["source"] = np.frombuffer(bytes([*([0] * 10), 0xFF, 0xFF, 192, 0, 2, 9]), rows["source"].dtype)
    rows["family"][-1], rows["protocol"][-1], rows["method"][-1] = 6, 17, 3
    rows["source"][-1:] = np.frombuffer(bytes.fromhex("20010db8000000000000000000000001"), rows["source"].dtype)
    stream = io.StringIO()
    writer = EventWriter(format, stream, lambda time_ns: time_ns)
    writer.write(rows)
    writer.close()
    return stream.getvalue()


@pytest.mark.parametrize("format", ["json", "jsonl"])
def test_single_rtts(tmp_path: Path, format: str) -> None:
    closing = {"timestamp": T0, "src_ip": "192.0.2.1", "protocol": "TCP", "flow_event": "closing", "reason": "FIN"}
    history = read(tmp_path / "file", events(format) + json.dumps(closing))
    assert rtts(history, V4) == (3600, 36 * S, 10 * MS, 10 * MS)
    assert rtts(history, V6) == (1, 10 * MS, 10 * MS, 10 * MS)
    assert history.total().rtts(["tcp_timestamp"]).counts.sum() == 3600
    assert 100 < len(history) <= 501
    assert history.total().begin_ns == T0
    assert history.notes == ["events of flows that open or close, which are not used: 1"]


def rtt(at: float, rtt_ns: int = 10 * MS, **others: Any) -> str:
    """Returns a line of `watch` with an RTT."""
    found = {"timestamp": T0 + round(at * S), "src_ip": "192.0.2.9", "protocol": "TCP", "rtt": rtt_ns}
    return json.dumps(found | others) + "\n"


RTTS = "".join(rtt(each) for each in range(1000, 1005))


@pytest.mark.parametrize(
    "text", [RTTS + json.dumps(REPORT), json.dumps(REPORT) + RTTS, json.dumps(REPORT)[:-1] + "," + RTTS]
)
def test_reports_and_single_rtts_in_a_file(tmp_path: Path, text: str) -> None:
    history = read(tmp_path / "file", text)
    assert rtts(history, V4)[0] == 12 + 5
    assert history.total().seconds == 20 + 5


@pytest.mark.parametrize(
    "damaged",
    [json.dumps(METADATA)[:50], json.dumps(METADATA)[:-1], json.dumps(METADATA | {"bin_width_ns": 2**61}) + ","],
)
def test_rtts_after_damaged_metadata_are_not_used(tmp_path: Path, damaged: str) -> None:
    again = json.dumps([METADATA | {"timestamp": T0 + 400 * S}, subnet(410, "192.0.2.0/24", [1])])
    later = json.dumps(subnet(300, "192.0.2.0/24", [7]))
    history = read(tmp_path / "file", json.dumps(REPORT) + f"\n[{damaged}\n{later}]\n{again}")
    assert rtts(history, V4)[0] == 12 + 1
    assert history.total().seconds == 40
    assert history.notes[1:] == [
        "histograms of RTTs that are not used, because the width of the bins is damaged: 1",
        "objects that are not used, because they are damaged or not of ePPing: 1",
    ]


def test_repeated_reports_are_counted_once(tmp_path: Path) -> None:
    whole = json.dumps(REPORT)
    (tmp_path / "copy").write_text(whole)
    (tmp_path / "file").write_text(whole + whole)
    history = read_pping([InputFile(str(tmp_path / name)) for name in ("file", "copy")])
    assert rtts(history, V4)[0] == 12
    assert history.total().seconds == 20
    assert history.notes[-1] == "reports of ePPing that are not used, because they are repeated: 4"


@pytest.mark.parametrize("address", ["x", "fe80:::1", "192.0.2.1%eth0"])
def test_an_invalid_address_is_not_measured_time(tmp_path: Path, address: str) -> None:
    bad = rtt(1, src_ip=address), json.dumps(subnet(500, address)), rtt(900, src_ip=address)
    history = read(tmp_path / "file", bad[0] + rtt(100) + "".join(bad[1:]) + rtt(300))
    assert rtts(history, V4)[0] == history.total().seconds == 2
    assert history.notes == ["objects that are not used, because they are damaged or not of ePPing: 3"]


MIDDLE = [
    rtt(2)[:40] + "\n",
    rtt(2)[:-2] + ",",
    rtt(2)[:-2],
    "\0" * 5000 + "\n",
    "\0" * (5 << 19) + "\n",
    '{"a":' * 9999 + "\n",
    "{" + "x{},}" * (3 << 18),
    rtt(2)[:-2] + ',"x":' + "[" * 100_000 + "]" * 100_000 + "}\n",
]


@pytest.mark.parametrize("middle", MIDDLE, ids=range(len(MIDDLE)))
@pytest.mark.parametrize("array", [False, True])
def test_a_damaged_object_does_not_damage_the_next_object(tmp_path: Path, middle: str, array: bool) -> None:
    before, after = "".join(rtt(each) for each in range(10)), "".join(rtt(each) for each in range(20, 30))
    text = before + middle + after
    history = read(tmp_path / "file", "[" + text.replace("}\n{", "},{") if array else text)
    assert rtts(history, V4) == (20, 200 * MS, 10 * MS, 10 * MS)
    assert history.notes == ["objects that are not used, because they are damaged or not of ePPing: 1"]


@pytest.mark.parametrize("cut", [3, 30, 250])
def test_metadata_after_a_cut_object(tmp_path: Path, cut: int) -> None:
    second = json.dumps([METADATA | {"bin_width_ns": MS}, subnet(10, "2001:db8::/48", [0, 9], max_rtt=2 * MS)])
    history = read(tmp_path / "file", json.dumps(REPORT)[:-cut] + "\n" + second)
    assert "bins of 1 ms" in history.notes[0]
    assert rtts(history, V6)[0] == 9
    assert history.notes[-1].endswith("not of ePPing: 1")


def test_rtts_of_more_than_64_seconds(tmp_path: Path) -> None:
    history = read(tmp_path / "file", "".join(rtt(each, 200 * S) for each in range(30)))
    assert history.total().rtts().quantiles(0.5) == pytest.approx(200, rel=0.05)
    assert rtts(history, V4)[3] == 200 * S


HUGE: list[str] = [
    rtt(10, 2**62) * 2,
    *(
        json.dumps(subnet(500, "192.0.2.0/24", **each)) * 2
        for each in (
            {"rx_stats": {"TCP_TS": {"packets": 1, "bytes": 2**62}}},
            {"histogram": [2**62] * 4},
            {"histogram": [2**31] * 200, "mean_rtt": S * S},
            {"histogram": [2**32 - 1] * 200, "mean_rtt": 3_600 * S},
        )
    ),
]


@pytest.mark.parametrize("text", HUGE, ids=range(len(HUGE)))
def test_huge_numbers_are_damage(tmp_path: Path, text: str) -> None:
    history = read(tmp_path / "file", rtt(1) + text + rtt(2))
    assert rtts(history, V4) == (2, 20 * MS, 10 * MS, 10 * MS)
    assert history.total().seconds == 2
    assert history.notes == ["objects that are not used, because they are damaged or not of ePPing: 2"]


def test_what_is_not_used_is_said(tmp_path: Path) -> None:
    wrong = [{"a": 1}, {"timestamp": "x"}, subnet(10, "hello"), {"timestamp": 5}]
    text = json.dumps([*wrong, subnet(10, "192.0.2.0/24", [1])])
    history = read(tmp_path / "file", text + json.dumps(subnet(20, "192.0.2.0/24", [1]))[:80])
    assert rtts(history, V4)[0] == 1
    assert history.notes[-1] == "objects that are not used, because they are damaged or not of ePPing: 5"


@pytest.mark.parametrize("text", ["hello", "{}", "[]", "[{", '{"timestamp":1}'])
def test_a_file_without_rtts_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(EppingError, match="no RTTs or counts of ePPing"):
        read(tmp_path / "file", text)


EVENTS = events("jsonl")
NUMBERS = ["-1", "0", str(2**63), "1e300", "null", '"x"', "[]", "[5]", "{}", "true", "1.5"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_objects_are_counted(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """For any content of an object, the result is a history or an EppingError."""
    single = json.loads(EVENTS.split("\n")[0])
    text = json.dumps([METADATA, subnet(10, "192.0.2.0/24", [1, 2]), COUNTERS, single])
    begin, end = data.draw(
        st.sampled_from([match.span(1) for match in re.finditer(r': ("[^"]*"|[0-9.]+|\[[^]]*\])', text)])
    )
    if data.draw(st.booleans()):
        text = text[:begin] + data.draw(st.sampled_from(NUMBERS)) + text[end:]
    else:
        text = text[:begin] + data.draw(st.text(max_size=3)) + text[begin + data.draw(st.integers(0, 9)) :]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path_factory.getbasetemp() / "fuzzed", text + json.dumps(subnet(500, "198.51.100.0/24", [7])))
