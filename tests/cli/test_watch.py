# SPDX-License-Identifier: Apache-2.0
"""Tests `otel-epping watch` as a user runs it, with real connections. Tests all ways in which the command can end."""

import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from scapy.layers.dns import DNS, DNSQR
from scapy.layers.inet import IP, UDP

from otel_epping.lab import traffic
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.topology import WAN_INTERFACE, Lab
from tests.support.command import COMMAND, converse, environment, epping, said
from tests.support.lab_agent import eventually, talking
from tests.support.packets import ETHER
from tests.support.patience import PATIENCE_S, stays
from tests.support.unprivileged import AGENT, NET_ADMIN, assert_unprivileged, fields, held

FLOW = r"[0-9a-f.:]+:\d+\+[0-9a-f.:]+:\d+"
NUMBER = r"\d[\d.e+-]*"
STANDARD = re.compile(
    rf"\d\d:\d\d:\d\d\.\d{{9}} (({NUMBER} ms {NUMBER} ms (TCP|ICMP|ICMPv6|17) {FLOW})"
    rf"|((TCP|ICMP|ICMPv6) {FLOW} (opening|closing) due to [\w -]+ from (src|dest|garbage collection)))"
)
PPVIZ = re.compile(rf"{NUMBER} {NUMBER} {NUMBER} {FLOW}")
RING_EVENTS = 40_000  # more events than fit in the ring buffer of bpf/events.h


class Watch:
    """A running `watch` command.

    The command writes its output to a file or, if `piped` is true, to `process.stdout`.
    """

    def __init__(
        self, namespace: Namespace, folder: Path, *arguments: str, piped: bool = False, command: list[str] = AGENT
    ) -> None:
        self._out, self._log = folder / f"{id(self)}.out", folder / f"{id(self)}.log"
        with self._out.open("w") as out, self._log.open("w") as log:
            self.process = namespace.popen(
                [*command, "watch", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if piped else out,
                stderr=log,
                env=environment({}),
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def lines(self) -> list[str]:
        return self._out.read_text().splitlines()

    def watching(self) -> "Watch":
        def watches() -> bool:
            assert self.process.poll() is None, self.log
            return "watching" in self.log

        eventually(watches, PATIENCE_S, f"the command watches; its log: {self.log}")
        assert_unprivileged(self.process, self.log)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert "Traceback" not in self.log, self.log
        return code


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Watch]]:
    """Return a function that starts a `watch` command.

    The arguments of the function are (namespace, *arguments, piped=False, command=AGENT). The command is killed at the
    end of the test.
    """
    started: list[Watch] = []

    def start(*arguments: Any, **how: Any) -> Watch:
        started.append(Watch(arguments[0], tmp_path, *arguments[1:], **how))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def flow_of(line: dict[str, Any]) -> tuple[str, int, str, int]:
    return line["src_ip"], line["src_port"], line["dest_ip"], line["dest_port"]


def reset(lab: Lab, address: str) -> None:
    """Open a connection from the client. Exchange a request and a response. End the connection with a RST segment."""
    with lab.client.entered(), socket.create_connection((address, traffic.PORT)) as connection:
        connection.sendall(traffic.request(100, 100))
        assert len(connection.recv(200)) == 100
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_output_has_all_flows_and_the_delays_of_the_lab(lab: Lab, watch: Callable[..., Watch]) -> None:
    """For each flow, the output has all events from the SYN to the end of the flow. The RTTs in the output equal the
    delays of the lab's link."""
    options = ("-i", WAN_INTERFACE, "--sample-interval", "0")
    begun_ns = time.time_ns()
    both = [watch(lab.router, *options, "--format", "jsonl"), watch(lab.router, *options)]
    for one in both:
        one.watching()
    with talking(lab):
        reset(lab, lab.addresses[0])
        for one in both:
            eventually(lambda one=one: len(one.lines) > 300, PATIENCE_S, "RTTs are printed")  # type: ignore[misc]
    time.sleep(0.2)
    assert [one.stop() for one in both] == [0, 0]
    ended_ns = time.time_ns()

    lines = [json.loads(line) for line in both[0].lines]
    assert all(begun_ns <= line["timestamp"] <= ended_ns for line in lines)
    flow_events: dict[tuple[str, int, str, int], list[tuple[str, str]]] = defaultdict(list)
    rtts = defaultdict(list)
    least: dict[tuple[str, int, str, int], int] = {}
    for line in lines:
        flow = flow_of(line)
        if "rtt" not in line:
            flow_events[flow].append((line["flow_event"], line["reason"]))
            continue
        rtts[flow[0]].append(line["rtt"])
        # The router receives the replies of the servers on the watched interface, so the direction of the replies is
        # ingress.
        assert line["match_on_egress"] == (flow[0] not in lab.addresses)
        least[flow] = min(line["rtt"], least.get(flow, line["rtt"]))
        assert line["min_rtt"] == least[flow]

    assert {flow[0] for flow in flow_events} > set(lab.addresses)
    endings: Counter[str] = Counter()
    for (source, *_), events in flow_events.items():
        # In an event about the client's packets, the output names the server as the source and the client as the
        # destination.
        opening = "SYN" if source in lab.addresses else "SYN-ACK"
        assert events[0] == ("opening", opening)
        ((what, why),) = events[1:]
        assert what == "closing"
        endings[why] += 1
    assert endings["FIN"] > 20
    assert endings["RST"] >= 2  # both directions of the connection that was reset

    for network, address in zip(lab.networks, lab.addresses, strict=True):
        assert network.delay_ns <= median(rtts[address]) <= network.delay_ns + 5_000_000
        assert min(rtts[address]) >= network.delay_ns

    assert all(STANDARD.fullmatch(line) for line in both[1].lines)
    # The two commands see the same flows, although each command has its own program and its own clock.
    openings = sorted(line.split(maxsplit=1)[1] for line in both[1].lines if " opening " in line)
    assert openings == sorted(
        f"{line['protocol']} {line['src_ip']}:{line['src_port']}+{line['dest_ip']}:{line['dest_port']}"
        f" opening due to {line['reason']} from {line['triggered_by']}"
        for line in lines
        if line.get("flow_event") == "opening"
    )


def test_redacted_output(lab: Lab, watch: Callable[..., Watch]) -> None:
    """A host has the same pseudonym in all events. Ports stay."""
    one = watch(lab.router, "-i", WAN_INTERFACE, "--sample-interval", "0", "--redact").watching()
    for address in (lab.addresses[0], lab.addresses[0]):
        reset(lab, address)
    eventually(lambda: sum(" closing " in line for line in one.lines) >= 2, PATIENCE_S, "the flows are closed")
    assert one.stop() == 0
    ends = [end for line in one.lines for end in re.findall(r"[^ +]+:\d+", line.split(maxsplit=1)[1])]
    hosts = {end.rpartition(":")[0] for end in ends}
    assert hosts == {"host-1", "host-2"}
    assert {end for end in ends if end.endswith(f":{traffic.PORT}")} <= {f"{host}:{traffic.PORT}" for host in hosts}
    assert not re.search(r"\d+\.\d+\.\d+\.\d+|::", "".join(one.lines) + one.log)


def test_ctrl_c_ends_the_json_array(ns: Namespace, watch: Callable[..., Watch]) -> None:
    one = watch(ns, "-i", "lo", "--format", "json", "--methods", "tcp_timestamp").watching()
    converse(ns)
    os.killpg(one.process.pid, signal.SIGINT)
    assert one.process.wait(PATIENCE_S) == 0
    assert one.log == "otel-epping: watching lo\n"
    (text,) = one.lines
    assert {"opening", "closing", None} == {line.get("flow_event") for line in json.loads(text)}


def test_lines_come_at_once_and_a_broken_pipe_ends_it_quietly(ns: Namespace, watch: Callable[..., Watch]) -> None:
    one = watch(ns, "-i", "lo", "--format", "ppviz", "--methods", "tcp_handshake", piped=True).watching()
    stdout = one.process.stdout
    assert stdout is not None
    converse(ns, turns=2)
    began_s = time.monotonic()
    assert PPVIZ.fullmatch(stdout.readline().rstrip("\n"))
    assert time.monotonic() - began_s < 1
    stdout.close()
    converse(ns, turns=2)
    assert one.process.wait(PATIENCE_S) == 1
    assert one.log == "otel-epping: watching lo\n"


def ask_dns(ns: Namespace, count: int) -> None:
    """Send DNS queries out of the interface up0. The responses arrive on up0. Each response gives an event."""
    query = ETHER / IP(src="10.9.0.1", dst="10.9.0.2") / UDP(sport=40000, dport=53) / DNS(qd=DNSQR(qname="a"))
    response = ETHER / IP(src="10.9.0.2", dst="10.9.0.1") / UDP(sport=53, dport=40000) / DNS(qr=1, qd=DNSQR(qname="a"))
    frames = [bytearray(bytes(query)), bytearray(bytes(response))]
    with (
        ns.entered(),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as near,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far,
    ):
        near.bind(("up0", 0))
        far.bind(("up1", 0))
        for number in range(count):
            for frame, sender in zip(frames, (near, far), strict=True):
                struct.pack_into(">H", frame, 42, number)  # the ID field of the DNS message
                sender.send(frame)


def test_lost_events_are_reported(ns: Namespace, watch: Callable[..., Watch]) -> None:
    one = watch(ns, "-i", "up0", "-i", "lo", "--format", "jsonl", "--methods", "dns,tcp_timestamp").watching()
    os.kill(one.process.pid, signal.SIGSTOP)
    ask_dns(ns, RING_EVENTS)
    os.kill(one.process.pid, signal.SIGCONT)
    eventually(lambda: "lost" in one.log, PATIENCE_S, "lost events are reported")
    converse(ns, turns=3)  # after lost events, the command still prints new events
    assert one.stop() == 0
    first, *lost = one.log.splitlines()
    assert first == "otel-epping: watching up0, lo"
    *reports, total = [int(re.fullmatch(r"otel-epping: lost (\d+) events.*", line)[1]) for line in lost]  # type: ignore[index]
    assert total == sum(reports) > 0
    lines = [json.loads(line) for line in one.lines]
    assert sum(line.get("method") == "dns" for line in lines) + total == RING_EVENTS
    assert {line["src_ip"] for line in lines} == {"10.9.0.2", "127.0.0.1"}


def test_a_second_signal_ends_the_command_if_its_pipe_is_not_read(ns: Namespace, watch: Callable[..., Watch]) -> None:
    one = watch(ns, "-i", "up0", "--format", "jsonl", "--methods", "dns", piped=True).watching()
    ask_dns(ns, 2000)  # more bytes than a pipe holds
    time.sleep(0.3)
    one.process.send_signal(signal.SIGTERM)
    stays(lambda: one.process.poll() is None, 1.2, "the command waits for the reader of the pipe")
    assert one.stop(signal.SIGINT) == 128 + signal.SIGINT
    assert one.log.splitlines()[-1].startswith("otel-epping: stopped at once")


# Users who run `watch` by hand are usually root.
@pytest.mark.parametrize("command", [COMMAND, AGENT], ids=["root", "nobody"])
@pytest.mark.parametrize(("hook", "kept"), [("tcx", 0), ("clsact", NET_ADMIN)])
def test_capabilities(ns: Namespace, watch: Callable[..., Watch], command: list[str], hook: str, kept: int) -> None:
    one = watch(ns, "-i", "lo", "--hook", hook, command=command).watching()
    sets = held(fields(Path(f"/proc/{one.process.pid}/status")))
    assert sets == {"CapInh": 0, "CapPrm": kept, "CapEff": kept, "CapAmb": 0}
    assert one.log.count("CAP_NET_ADMIN: kept") == bool(kept)
    converse(ns, turns=3)
    eventually(lambda: any(STANDARD.fullmatch(line) for line in one.lines), PATIENCE_S, "events are printed")
    assert one.stop() == 0
    assert "clsact" not in ns.run("tc", "qdisc", "show", "dev", "lo")


def test_invalid_arguments_are_reported_in_one_line(ns: Namespace) -> None:
    assert said(epping(ns, "watch", "-i", "nonesuch")).startswith("there is no interface 'nonesuch': choose one of")
    wrong = said(epping(ns, "watch", "-i", "lo", "--format", "xml"))
    assert "'xml' is not one of 'standard', 'json', 'jsonl', 'ppviz'" in wrong
