# SPDX-License-Identifier: Apache-2.0
"""Churn, for as long as you like: `make soak` has 20 minutes of it, long/test_soak.py a minute.

Two agents watch the same interfaces while flows, subnets, interfaces and collectors come and go: more subnets than
there is room for, each conversation a flow of its own. One agent exports cumulative counts over HTTP to a real
collector that is killed again and again; the other, within bounds, deltas over gRPC to one that first refuses and then
is gone. All packets are ours: so we know how many there are, and how many RTTs. In the end both must have told of each
exactly once.
"""

import argparse
import random
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from otel_epping.kernel import libbpf
from otel_epping.lab.collectors import collector
from otel_epping.lab.forwarder import Forwarder
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.sink import Point, Sink
from otel_epping.otel import metric_table
from tests.long.fuzz import builders
from tests.long.fuzz.meaning import ACK
from tests.long.soak_memory import Memory
from tests.support.arrivals import DELTA, INTERFACE_PACKETS, PACKETS
from tests.support.command import environment
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import CAPABLE_NOBODY, as_nobody, assert_unprivileged

AGENT = as_nobody(CAPABLE_NOBODY, "/mnt/tests/long/soak_agent.py")
ROUNDS = 4
# Of each conversation: none from the first timestamp of either side, which may be old, nor from the last, unanswered.
RTTS = (ROUNDS - 1) + (ROUNDS - 2)
CONVERSATIONS = 12  # at a time
PAUSE_S = 0.04
MAX_SUBNETS = 1024
SUBNETS = 3000  # on either side, for each interface
CHURN_S = 5.0
INTERFACES = 3  # at a time
# Names that come beside those, and come again: of each that it ever watched an agent keeps the counts.
OTHER_NAMES = 2
INTERVAL = "500ms"
MOST_NEW_FDS = 2  # a connection may be up, or not
ASKING_S = 0.2


class Traffic:
    """Conversations through veth pairs, soakN and peerN, of which agents watch the first. Counts what it has sent."""

    def __init__(self, ns: Namespace) -> None:
        self.packets = self.rtts = self.comings = 0
        self._ns = ns
        self._chance = random.Random(1)
        self._ends: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._flows = 0
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # or the kernel sends packets of its own
        for number in range(INTERFACES):
            self._make(number)

    def _make(self, number: int) -> None:
        near, far = f"soak{number}", f"peer{number}"
        self._ns.ip(f"link add {near} type veth peer name {far}", f"link set {near} up", f"link set {far} up")
        with self._ns.entered():
            ends = [socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) for _ in range(2)]
        for end, interface in zip(ends, (near, far), strict=True):
            end.bind((interface, 0))
        self._ends[near] = (ends[0], ends[1])

    def replace_an_interface(self) -> None:
        """One goes, and comes again, by turns with its name or another one; it is used when both agents watch it."""
        name = list(self._ends)[1]
        for end in self._ends.pop(name):
            end.close()
        self._ns.ip(f"link delete {name}")
        self.comings += 1
        number = int(name[4:]) if self.comings % 2 else INTERFACES + self.comings // 2 % OTHER_NAMES
        self._make(number)
        deadline = time.monotonic() + PATIENCE_S
        while attached(self._ns, f"soak{number}") != [2, 2]:
            assert time.monotonic() < deadline, f"soak{number} came, and is not watched"
            time.sleep(0.02)

    def speak(self) -> None:
        """Some conversations of new flows, between subnets that were heard of before or weren't."""
        for _ in range(CONVERSATIONS):
            self._flows += 1
            near, far = self._ends[self._chance.choice(list(self._ends))]
            inner, outer = (bytes((net, *divmod(self._chance.randrange(SUBNETS), 256), 1)) for net in (11, 12))
            ports = (1024 + self._flows % 60_000, 443)
            for now in range(1, ROUNDS + 1):
                near.send(_segment(inner, outer, ports, now, now - 1))
                far.send(_segment(outer, inner, ports[::-1], now, now))
            self.packets += 2 * ROUNDS
            self.rtts += RTTS

    def close(self) -> None:
        for ends in self._ends.values():
            for end in ends:
                end.close()


def _segment(source: bytes, destination: bytes, ports: tuple[int, int], tsval: int, tsecr: int) -> bytes:
    segment = builders.tcp(ports, 1, 1, ACK | 8, builders.timestamp(tsval, tsecr), b"data")
    return builders.link((), 4) + builders.ip(source, destination, 6, segment)


@dataclass
class Account:
    """What an agent told of a metric, from its points as they come; each must follow from those before it."""

    told: dict[Any, int] = field(default_factory=dict)
    _latest: dict[Any, Any] = field(default_factory=dict)

    def enter(self, one: Point) -> None:
        series = tuple(sorted(one.attributes.items()))
        point, before = one.point, self._latest.get(series)
        value = int(getattr(point, "count", 0) or getattr(point, "as_int", 0))
        start_ns, time_ns = point.start_time_unix_nano, point.time_unix_nano
        assert start_ns <= time_ns, (series, start_ns, time_ns)
        if before is not None:
            begun_ns, latest_ns, told = before
            assert time_ns > latest_ns, (series, time_ns, latest_ns)
            assert start_ns >= latest_ns or (start_ns == begun_ns and value >= told), (series, before, value)
        self._latest[series] = (start_ns, time_ns, value if one.temporality != DELTA else 0)
        key = series if one.temporality == DELTA else (series, start_ns)
        self.told[key] = value + (self.told.get(key, 0) if one.temporality == DELTA else 0)

    @property
    def total(self) -> int:
        return sum(self.told.values())


class Told:
    """The accounts of all that matters here; takes requests out of sinks, so that they don't pile up."""

    def __init__(self) -> None:
        self._accounts = {name: Account() for name in (PACKETS, INTERFACE_PACKETS, metric_table.RTT.name)}
        self.requests = 0

    def take(self, sink: Sink) -> None:
        requests = sink.requests
        self.requests += len(requests)
        for name, account in self._accounts.items():
            for point in sink.points(name):
                account.enter(point)
        sink.clear()

    @property
    def subnet_packets(self) -> int:
        """Each packet is told from one subnet and to another; both may be those that there is no room for."""
        return self._accounts[PACKETS].total

    def __str__(self) -> str:
        return f"{self.interface_packets} packets, {self.rtts} RTTs in {self.requests} requests"

    @property
    def interface_packets(self) -> int:
        return self._accounts[INTERFACE_PACKETS].total

    @property
    def rtts(self) -> int:
        return self._accounts[metric_table.RTT.name].total


class Agent:
    """An agent on all the interfaces; `variables` are its own."""

    def __init__(self, ns: Namespace, log: Path, **variables: str) -> None:
        self._log = log
        holds = log.with_suffix(".holds")
        holds.touch()
        holds.chmod(0o666)  # nobody writes it
        settings = variables | {"OTEL_EXPORTER_OTLP_TIMEOUT": "2", "SOAK_HOLDS": str(holds)}
        options = ["-i", "soak*", "--interval", INTERVAL, "--sample-interval", "0", "--max-subnets", str(MAX_SUBNETS)]
        with log.open("w") as stderr:
            self.process = ns.popen([*AGENT, "run", *options], stderr=stderr, env=environment(settings))
        self.memory = Memory(self.process.pid, holds)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_until_it_watches(self) -> None:
        while "watching" not in self.log:
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        assert_unprivileged(self.process, self.log)

    @property
    def fds(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


@dataclass
class Collectors:
    """One that is killed, in front of a sink; and one that is a sink itself. Both come back to where they were."""

    ns: Namespace
    behind: Sink
    forwarder: Forwarder
    direct: Sink
    kills: int = 0

    @classmethod
    @contextmanager
    def running(cls, ns: Namespace) -> Iterator["Collectors"]:
        with Sink(namespace=ns) as behind:
            one = cls(ns, behind, collector(behind, namespace=ns).__enter__(), Sink(namespace=ns).__enter__())
            try:
                yield one
            finally:
                one.forwarder.__exit__()
                one.direct.__exit__()

    def take_away(self) -> None:
        self.kills += 1
        self.forwarder.__exit__()
        # A delta is told twice if the answer to it is lost, so this one says no before it goes.
        self.direct.fail_with(503)
        time.sleep(0.1)
        self.direct.__exit__()

    def bring_back(self) -> None:
        self.forwarder.__enter__()
        self.direct = Sink(grpc_port=self.direct.grpc_port, namespace=self.ns).__enter__()


def attached(ns: Namespace, name: str) -> list[int]:
    """How many programs are on the two hooks of an interface."""
    with ns.entered():
        ifindex = socket.if_nametoindex(name)
        return [libbpf.attached_count(ifindex, hook) for hook in (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)]


def run(duration_s: float) -> list[str]:
    """Soaks for so long, and returns what there is to say of it. Raises AssertionError if something was amiss."""
    with ExitStack() as undo:
        ns = undo.enter_context(Namespace("soak"))
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory()))
        folder.chmod(0o711)
        collectors = undo.enter_context(Collectors.running(ns))
        traffic = Traffic(ns)
        undo.callback(traffic.close)
        agents = {
            "cumulative": Agent(
                ns,
                folder / "cumulative.log",
                OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
                OTEL_EXPORTER_OTLP_ENDPOINT=collectors.forwarder.http_endpoint.removesuffix("/v1/metrics"),
            ),
            "delta": Agent(
                ns,
                folder / "delta.log",
                OTEL_EXPORTER_OTLP_ENDPOINT=collectors.direct.grpc_endpoint,
                OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
                OTEL_EPPING_IDLE_TIMEOUT="1s",
                OTEL_EPPING_MAX_SERIES=str(MAX_SUBNETS // 4),
                OTEL_EPPING_ROLL_UP="true",
            ),
        }
        for agent in agents.values():
            agent.wait_until_it_watches()
        assert attached(ns, "soak0") == [2, 2]
        told = {name: Told() for name in agents}
        fds = _churn(duration_s, traffic, collectors, agents, told)
        for name, agent in agents.items():
            agent.process.terminate()
            assert agent.process.wait(PATIENCE_S) == 0, f"{name}: {agent.log}"
            amiss = [line for line in agent.log.splitlines() if "Traceback" in line or " ERROR " in line]
            assert not amiss, f"{name}: {amiss}"
        assert attached(ns, "soak0") == [0, 0], "a program is left behind"
        _settle(collectors.behind)
        told["cumulative"].take(collectors.behind)
        told["delta"].take(collectors.direct)
        lines = [
            f"{traffic.packets} packets and {traffic.rtts} RTTs offered; collectors gone {collectors.kills} times, "
            f"interfaces {traffic.comings}"
        ]
        for name, one in told.items():
            lines.append(f"{name}: {one}; descriptors {fds[name]}; {agents[name].memory}")
        print("\n".join(lines))
        for name, one in told.items():
            packets = (one.interface_packets, one.subnet_packets / 2)
            assert packets == (traffic.packets, traffic.packets), f"{name}: {packets} of {traffic.packets} packets"
            assert one.rtts == traffic.rtts, f"{name}: {one.rtts} of {traffic.rtts} RTTs"
            agents[name].memory.check()
            first, last = fds[name]
            assert last - first <= MOST_NEW_FDS, f"{name}: descriptors went from {first} to {last}"
        return lines


def _churn(
    duration_s: float, traffic: Traffic, collectors: Collectors, agents: dict[str, Agent], told: dict[str, Told]
) -> dict[str, tuple[int, int]]:
    """All that comes and goes; returns how many descriptors agents have after a round and in the end."""

    def fds() -> dict[str, int]:
        return {name: agent.fds for name, agent in agents.items()}

    def speak_until(at: float) -> None:
        while time.monotonic() < at:
            traffic.speak()
            time.sleep(PAUSE_S)

    def speak_and_ask(duration_s: float) -> None:
        until = time.monotonic() + duration_s
        while time.monotonic() < until:
            for agent in agents.values():
                agent.memory.ask()
            speak_until(time.monotonic() + ASKING_S)
        for agent in agents.values():
            agent.memory.end_round()

    began, first = time.monotonic(), dict[str, int]()
    while time.monotonic() - began < duration_s - CHURN_S:
        traffic.replace_an_interface()
        speak_until(time.monotonic() + 0.3 * CHURN_S)
        collectors.take_away()
        told["delta"].take(collectors.direct)
        speak_until(time.monotonic() + 0.3 * CHURN_S)
        collectors.bring_back()
        speak_and_ask(0.4 * CHURN_S)
        told["cumulative"].take(collectors.behind)
        for agent in agents.values():
            assert agent.process.poll() is None, agent.log
        first = first or fds()
    speak_until(time.monotonic() + CHURN_S)
    for agent in agents.values():
        assert agent.log.count("export failed") == agent.log.count("get through again"), agent.log
    last = fds()
    return {name: (first[name], last[name]) for name in agents}


def _settle(sink: Sink) -> None:
    """Waits until the collector has passed on what it has."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 1:
        if len(sink.received) != count:
            count, since = len(sink.received), time.monotonic()
        time.sleep(0.05)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.soak", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=20.0, help="how long it takes (default 20)")
    run(parser.parse_args().minutes * 60)
    print("all of it was told, once")


if __name__ == "__main__":
    main()
