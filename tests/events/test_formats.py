# SPDX-License-Identifier: Apache-2.0
"""Compares the text of each event byte by byte with the output of ePPing's own code.

The expected lines were printed by pping.c and json_writer.c of xdp-project/bpf-examples. Both files were compiled
without changes. A short main() passed the events below to handle_event(), with a constant clock and the time zone UTC.
"""

import io
import ipaddress
import json
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from otel_epping.events.formats import FORMATS, EventWriter
from otel_epping.events.ring_buffer import CLOSING, OPENING, RTT, EventReader, Events
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.methods import ALL
from otel_epping.networks.pseudonyms import Pseudonyms, Show, unchanged
from tests.support.prog_test_run import Bench

pytestmark = pytest.mark.parallel


CLOCK_NS = 1_763_853_703_123_456_789  # the Unix time at which the clock of the kernel program was 0

# type; time, RTT and minimum RTT in ns; sent and received packets and bytes; egress; family; source; destination;
# protocol; reason; trigger
NUMBERS = (
    "type", "time_ns", "rtt_ns", "min_rtt_ns", "sent_packets", "sent_bytes", "received_packets", "received_bytes",
    "egress", "family",
)  # fmt: skip
EVENTS = """
1  876543210987           0           0  0     0  0   0  0  4 192.0.2.10 443    10.1.0.2 55078       6  1  1
1  876999999999           0           0  0     0  0   0  0  4 10.1.0.2 55078    192.0.2.10 443       6  3  1
0  877000000000    23456789    23456789  3  1460  2   0  0  4 192.0.2.10 443    10.1.0.2 55078       6  0  0
0  877000000001       18688       18688  1     9  1   1  1  6 fd00:1::2 36566   2001:db8:1::10 65535 6  0  0
0  877876543211  1234567890         999 12 17000 10 900  0  6 64:ff9b::c0:a 443 ::1 1                6  0  0
0  878000000000           5           0  1    64  1  64  0  4 198.51.100.1 4660 10.1.0.2 4660        1  0  0
0  878100000000 63999999999   100000000  1    56  0   0  0  6 2001:db8::1 4661  fd00:1::2 4661      58  0  0
0  878200000000 1000000000000   1000000  1    56  0   0  1  4 198.51.100.2 53   10.1.0.2 40000      17  0  0
2  878400000000           0           0  0     0  0   0  0  4 192.0.2.10 443    10.1.0.2 55078       6  4  1
2  878400000000           0           0  0     0  0   0  0  6 fd00:1::2 36566   2001:db8:1::10 443   6  5  0
2 1178400000000           0           0  0     0  0   0  0  6 2001:db8::1 4661  fd00:1::2 4661      58  6  2
"""

STANDARD = """\
23:36:19.666667776 TCP 192.0.2.10:443+10.1.0.2:55078 opening due to SYN from dest
23:36:20.123456788 TCP 10.1.0.2:55078+192.0.2.10:443 opening due to first observed packet from dest
23:36:20.123456789 23.4568 ms 23.4568 ms TCP 192.0.2.10:443+10.1.0.2:55078
23:36:20.123456790 0.018688 ms 0.018688 ms TCP fd00:1::2:36566+2001:db8:1::10:65535
23:36:21.000000000 1234.57 ms 0.000999 ms TCP 64:ff9b::c0:a:443+::1:1
23:36:21.123456789 5e-06 ms 0 ms ICMP 198.51.100.1:4660+10.1.0.2:4660
23:36:21.223456789 64000 ms 100 ms ICMPv6 2001:db8::1:4661+fd00:1::2:4661
23:36:21.323456789 1e+06 ms 1 ms 17 198.51.100.2:53+10.1.0.2:40000
23:36:21.523456789 TCP 192.0.2.10:443+10.1.0.2:55078 closing due to FIN from dest
23:36:21.523456789 TCP fd00:1::2:36566+2001:db8:1::10:443 closing due to RST from src
23:41:21.523456789 ICMPv6 2001:db8::1:4661+fd00:1::2:4661 closing due to flow timeout from garbage collection
"""

PPVIZ = """\
1.76385458e+09 0.023456789 0.023456789 192.0.2.10:443+10.1.0.2:55078
1.76385458e+09 1.8688e-05 1.8688e-05 fd00:1::2:36566+2001:db8:1::10:65535
1.76385458e+09 1.23456789 9.99e-07 64:ff9b::c0:a:443+::1:1
1.76385458e+09 5e-09 0 198.51.100.1:4660+10.1.0.2:4660
1.76385458e+09 64 0.1 2001:db8::1:4661+fd00:1::2:4661
1.76385458e+09 1000 0.001 198.51.100.2:53+10.1.0.2:40000
"""

# The program prints each event as one line. In this constant, each event is split into two lines, because the whole
# line would be too long for this file.
JSON_LINES = """\
{"timestamp":1763854579666667776,"src_ip":"192.0.2.10","src_port":443,"dest_ip":"10.1.0.2","dest_port":55078
  ,"protocol":"TCP","flow_event":"opening","reason":"SYN","triggered_by":"dest"}
{"timestamp":1763854580123456788,"src_ip":"10.1.0.2","src_port":55078,"dest_ip":"192.0.2.10","dest_port":443
  ,"protocol":"TCP","flow_event":"opening","reason":"first observed packet","triggered_by":"dest"}
{"timestamp":1763854580123456789,"src_ip":"192.0.2.10","src_port":443,"dest_ip":"10.1.0.2","dest_port":55078
  ,"protocol":"TCP","rtt":23456789,"min_rtt":23456789,"sent_packets":3,"sent_bytes":1460,"rec_packets":2,"rec_bytes":0,"match_on_egress":false}
{"timestamp":1763854580123456790,"src_ip":"fd00:1::2","src_port":36566,"dest_ip":"2001:db8:1::10","dest_port":65535
  ,"protocol":"TCP","rtt":18688,"min_rtt":18688,"sent_packets":1,"sent_bytes":9,"rec_packets":1,"rec_bytes":1,"match_on_egress":true}
{"timestamp":1763854581000000000,"src_ip":"64:ff9b::c0:a","src_port":443,"dest_ip":"::1","dest_port":1
  ,"protocol":"TCP","rtt":1234567890,"min_rtt":999,"sent_packets":12,"sent_bytes":17000,"rec_packets":10,"rec_bytes":900,"match_on_egress":false}
{"timestamp":1763854581123456789,"src_ip":"198.51.100.1","src_port":4660,"dest_ip":"10.1.0.2","dest_port":4660
  ,"protocol":"ICMP","rtt":5,"min_rtt":0,"sent_packets":1,"sent_bytes":64,"rec_packets":1,"rec_bytes":64,"match_on_egress":false}
{"timestamp":1763854581223456789,"src_ip":"2001:db8::1","src_port":4661,"dest_ip":"fd00:1::2","dest_port":4661
  ,"protocol":"ICMPv6","rtt":63999999999,"min_rtt":100000000,"sent_packets":1,"sent_bytes":56,"rec_packets":0,"rec_bytes":0,"match_on_egress":false}
{"timestamp":1763854581323456789,"src_ip":"198.51.100.2","src_port":53,"dest_ip":"10.1.0.2","dest_port":40000
  ,"protocol":"17","rtt":1000000000000,"min_rtt":1000000,"sent_packets":1,"sent_bytes":56,"rec_packets":0,"rec_bytes":0,"match_on_egress":true}
{"timestamp":1763854581523456789,"src_ip":"192.0.2.10","src_port":443,"dest_ip":"10.1.0.2","dest_port":55078
  ,"protocol":"TCP","flow_event":"closing","reason":"FIN","triggered_by":"dest"}
{"timestamp":1763854581523456789,"src_ip":"fd00:1::2","src_port":36566,"dest_ip":"2001:db8:1::10","dest_port":443
  ,"protocol":"TCP","flow_event":"closing","reason":"RST","triggered_by":"src"}
{"timestamp":1763854881523456789,"src_ip":"2001:db8::1","src_port":4661,"dest_ip":"fd00:1::2","dest_port":4661
  ,"protocol":"ICMPv6","flow_event":"closing","reason":"flow timeout","triggered_by":"garbage collection"}
""".replace("\n  ", "")

JSON_ARRAY = "[" + ",".join(JSON_LINES.splitlines()) + "]\n"

EXPECTED = dict(zip(FORMATS, (STANDARD, JSON_ARRAY, JSON_LINES, PPVIZ), strict=True))


@pytest.fixture(scope="module")
def dtype(bench_of: Callable[[EppingConfig], Bench]) -> np.dtype[np.void]:
    """The numpy type of an event that the loaded program writes."""
    config = EppingConfig(packet_clock=True, events=True, max_subnets=1024, max_flows=65536, sample_interval_ns=0)
    return EventReader(bench_of(config).collector).dtype


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def packed(address: str) -> np.ndarray:
    """Return an address in the form of struct address of bpf/maps.h."""
    ip = ipaddress.ip_address(address)
    mapped = ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed
    return np.frombuffer(mapped, np.uint64)


def events_of(text: str, dtype: np.dtype[np.void]) -> Events:
    """Return the events of a table that has the form of EVENTS."""
    rows = text.split("\n")[1:-1]
    events = np.zeros(len(rows), dtype)
    for event, row in zip(events, rows, strict=True):
        *first, source, source_port, destination, destination_port, protocol, reason, trigger = row.split()
        for name, number in zip(NUMBERS, first, strict=True):
            event[name] = int(number)
        event["source"]["half"], event["destination"]["half"] = packed(source), packed(destination)
        event["source_port"] = np.array(int(source_port), ">u2").view(np.uint16)
        event["destination_port"] = np.array(int(destination_port), ">u2").view(np.uint16)
        event["protocol"], event["reason"], event["trigger"] = int(protocol), int(reason), int(trigger)
        event["method"] = ALL.index("icmp_echo" if int(protocol) in (1, 58) else "tcp_timestamp")
    return events


def written(format: str, *batches: Events, show: Show = unchanged) -> str:
    stream = io.StringIO()
    writer = EventWriter(format, stream, lambda time_ns: CLOCK_NS + time_ns, show)
    for batch in batches:
        writer.write(batch)
    writer.close()
    return stream.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_output_equals_the_output_of_epping(format: str, dtype: np.dtype[np.void]) -> None:
    events = events_of(EVENTS, dtype)
    assert set(events["type"].tolist()) == {RTT, OPENING, CLOSING}
    assert written(format, events) == EXPECTED[format]


@pytest.mark.parametrize("format", FORMATS)
def test_the_output_does_not_depend_on_batches(format: str, dtype: np.dtype[np.void]) -> None:
    events = events_of(EVENTS, dtype)
    assert written(format, events[:0], events[:1], events[1:1], events[1:2], events[2:]) == EXPECTED[format]


@pytest.mark.parametrize("format", FORMATS)
def test_pseudonyms_replace_addresses_and_nothing_else(format: str, dtype: np.dtype[np.void]) -> None:
    events = events_of(EVENTS, dtype)
    show = Pseudonyms()
    redacted = written(format, events[:3], events[3:], show=show)
    rows = EVENTS.split("\n")[1:-1]
    addresses = dict.fromkeys(address for row in rows for address in (row.split()[10], row.split()[12]))
    # The longest address first, because ::1 is a part of other addresses.
    expected = EXPECTED[format]
    for address in sorted(addresses, key=len, reverse=True):
        expected = expected.replace(address, show("host", address))
    assert redacted == expected


@pytest.mark.unit
@pytest.mark.parametrize(("format", "text"), [("standard", ""), ("json", "[]\n"), ("jsonl", ""), ("ppviz", "")])
def test_no_events(format: str, text: str) -> None:
    assert written(format) == text


def test_json_names_a_method_that_epping_does_not_have(dtype: np.dtype[np.void]) -> None:
    events = events_of(EVENTS, dtype)
    before = [json.loads(line) for line in written("jsonl", events).splitlines()]
    assert not any("method" in line for line in before)
    events["method"] = ALL.index("dns")
    after = [json.loads(line) for line in written("jsonl", events).splitlines()]
    for line, plain in zip(after, before, strict=True):
        # Events that open or close a flow have no measurement method.
        assert list(line.items()) == [*plain.items(), *([("method", "dns")] if "rtt" in plain else [])]


def test_time_of_day_is_local(monkeypatch: pytest.MonkeyPatch, dtype: np.dtype[np.void]) -> None:
    monkeypatch.setenv("TZ", "IST-5:30")
    time.tzset()
    events = events_of(EVENTS, dtype)
    events["time_ns"] += 3_600_000_000_000  # one hour later, because no earlier test has cached the text of this hour
    # The time is 00:36:19 in UTC.
    assert written("standard", events).startswith("06:06:19.666667776 TCP ")
