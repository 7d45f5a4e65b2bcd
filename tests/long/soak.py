# SPDX-License-Identifier: Apache-2.0
"""Runs two agents under churn for a given time. `make soak` runs for 20 minutes, and test_soak.py for 100 s.

The agents watch the same interfaces, while flows, subnets, interfaces and collectors appear and disappear. There are
nine times as many subnets as slots, and each conversation is a new flow. Forged sources send SYNs, and never answer.
One agent exports cumulative counts over HTTP to a real collector, which is killed repeatedly. The other agent has a
limit for the number of series. This agent exports deltas over gRPC to a receiver that repeatedly rejects requests and
then disappears. The test itself sends all packets, so the expected number of packets and RTTs is known. At the end,
both agents must have exported each packet and each RTT exactly once.
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
from otel_epping.lab.collector_process import CollectorProcess
from otel_epping.lab.collectors import collector
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Point, Sink
from otel_epping.otel import metric_table
from tests.long.fuzz import builders
from tests.long.fuzz.meaning import ACK, SYN
from tests.long.soak_memory import Memory
from tests.support.arrivals import DELTA, INTERFACE_PACKETS, PACKETS
from tests.support.command import environment
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import CAPABLE_NOBODY, as_nobody, assert_unprivileged

AGENT = as_nobody(CAPABLE_NOBODY, "/mnt/tests/long/soak_agent.py")
ROUNDS = 4
# The number of RTTs of each conversation. The first TSval of each endpoint yields no RTT, because this TSval may be
# old. The last TSval of the conversation yields no RTT, because no packet echoes this TSval.
RTTS = (ROUNDS - 1) + (ROUNDS - 2)
CONVERSATIONS = 12  # per call of speak()
FORGED = 12  # number of forged sources per call of speak()
PAUSE_S = 0.04
MAX_SUBNETS = 1024
SUBNETS = 3000  # number of subnets on each side of each interface
TARGET = bytes((11, 0, 0, 1))  # the destination of the forged packets
CHURN_S = 5.0
INTERFACES = 3  # number of interfaces that exist at the same time
# The number of additional interface names. The test reuses these names, because an agent keeps the counts of every
# interface that the agent has watched.
OTHER_NAMES = 2
INTERVAL = "500ms"
MAX_NEW_FDS = 2  # the descriptors are counted twice, and a few connections may be open only the second time
ASKING_S = 0.2


class Traffic:
    """Conversations through the veth pairs soakN and peerN.

    The agents watch soakN. `packets` is the number of sent packets. `rtts` is the number of expected RTTs.
    """

    def __init__(self, ns: Namespace) -> None:
        self.packets = self.rtts = self.comings = 0
        self._ns = ns
        self._chance = random.Random(1)
        self._ends: dict[str, tuple[socket.socket, socket.socket]] = {}
        self._flows = 0
        ns.sysctl("net.ipv6.conf.default.disable_ipv6", 1)  # without this setting, the kernel would send IPv6 packets
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
        """Delete an interface and add a new one.

        Every second time, the new interface has a different name from the deleted interface. Wait until both agents
        watch the new interface.
        """
        name = list(self._ends)[1]
        for end in self._ends.pop(name):
            end.close()
        self._ns.ip(f"link delete {name}")
        self.comings += 1
        number = int(name[4:]) if self.comings % 2 else INTERFACES + self.comings // 2 % OTHER_NAMES
        self._make(number)
        deadline = time.monotonic() + PATIENCE_S
        while attached(self._ns, f"soak{number}") != [2, 2]:
            assert time.monotonic() < deadline, f"the agents do not watch the new interface soak{number}"
            time.sleep(0.02)

    def speak(self) -> None:
        """Send some conversations as new flows, between random subnets. Send SYNs of forged sources."""
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
        for _ in range(FORGED):
            _, far = self._ends[self._chance.choice(list(self._ends))]
            source = bytes((*self._chance.randbytes(3), 1))
            syn = builders.tcp((self._chance.randrange(1024, 1 << 16), 443), 1, 0, SYN)
            far.send(builders.link((), 4) + builders.ip(bytes((20 + source[0] % 200, *source[1:])), TARGET, 6, syn))
            self.packets += 1

    def close(self) -> None:
        for ends in self._ends.values():
            for end in ends:
                end.close()


def _segment(source: bytes, destination: bytes, ports: tuple[int, int], tsval: int, tsecr: int) -> bytes:
    segment = builders.tcp(ports, 1, 1, ACK | 8, builders.timestamp(tsval, tsecr), b"data")
    return builders.link((), 4) + builders.ip(source, destination, 6, segment)


@dataclass
class Account:
    """Adds up the data points that one agent exports for one metric.

    Checks that the times and the value of each data point are consistent with the earlier data points of the series.
    """

    values: dict[Any, int] = field(default_factory=dict)
    _latest: dict[Any, Any] = field(default_factory=dict)

    def enter(self, one: Point) -> None:
        series = tuple(sorted(one.attributes.items()))
        point, before = one.point, self._latest.get(series)
        value = int(getattr(point, "count", 0) or getattr(point, "as_int", 0))
        start_ns, time_ns = point.start_time_unix_nano, point.time_unix_nano
        assert start_ns <= time_ns, (series, start_ns, time_ns)
        if before is not None:
            first_ns, latest_ns, last_value = before
            assert time_ns > latest_ns, (series, time_ns, latest_ns)
            assert start_ns >= latest_ns or (start_ns == first_ns and value >= last_value), (series, before, value)
        self._latest[series] = (start_ns, time_ns, value if one.temporality != DELTA else 0)
        key = series if one.temporality == DELTA else (series, start_ns)
        self.values[key] = value + (self.values.get(key, 0) if one.temporality == DELTA else 0)

    @property
    def total(self) -> int:
        return sum(self.values.values())


class Exported:
    """The packets and RTTs that one agent has exported. take() removes the requests from a sink, so that requests do
    not accumulate.
    """

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
        """The exported packets of all subnets, including the overflow point.

        Each packet is counted twice: for the source subnet and for the destination subnet.
        """
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
    """An agent that watches all interfaces with a name that matches soak*.

    `variables` are additional environment variables.
    """

    def __init__(self, ns: Namespace, log: Path, **variables: str) -> None:
        self._log = log
        holds = log.with_suffix(".holds")
        holds.touch()
        holds.chmod(0o666)  # the user `nobody` writes to this file
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
    """The receivers of both agents.

    One agent exports to a real collector, which forwards the requests to the sink `behind`. The other agent exports to
    the sink `direct`. After a restart, the collector and `direct` use the same ports as before.
    """

    ns: Namespace
    behind: Sink
    forwarder: CollectorProcess
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
        # If the sink stopped between receiving a delta and responding, the agent would send the same delta again, and
        # the test would count the delta twice. Therefore the sink rejects all requests before the sink stops.
        self.direct.fail_with(503)
        time.sleep(0.1)
        self.direct.__exit__()

    def bring_back(self) -> None:
        self.forwarder.__enter__()
        self.direct = Sink(grpc_port=self.direct.grpc_port, namespace=self.ns).__enter__()


def attached(ns: Namespace, name: str) -> list[int]:
    """Return the number of programs on each of the two hooks of an interface."""
    with ns.entered():
        ifindex = socket.if_nametoindex(name)
        return [libbpf.attached_count(ifindex, hook) for hook in (libbpf.BPF_TCX_INGRESS, libbpf.BPF_TCX_EGRESS)]


def run(duration_s: float) -> list[str]:
    """Run for `duration_s`, or up to twice as long if an agent's memory seems to grow.

    Return a report. Raise AssertionError if a check fails.
    """
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
                OTEL_EPPING_MAX_SERIES="0",
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
        exported = {name: Exported() for name in agents}
        fds = _churn(duration_s, traffic, collectors, agents, exported)
        for name, agent in agents.items():
            agent.process.terminate()
            assert agent.process.wait(PATIENCE_S) == 0, f"{name}: {agent.log}"
            faults = [line for line in agent.log.splitlines() if "Traceback" in line or " ERROR " in line]
            assert not faults, f"{name}: {faults}"
        assert attached(ns, "soak0") == [0, 0], "a program is still attached"
        _settle(collectors.behind)
        exported["cumulative"].take(collectors.behind)
        exported["delta"].take(collectors.direct)
        lines = [
            f"{traffic.packets} packets and {traffic.rtts} RTTs sent; collectors stopped {collectors.kills} times, "
            f"interfaces replaced {traffic.comings} times"
        ]
        for name, one in exported.items():
            lines.append(f"{name}: {one}; descriptors {fds[name]}; {agents[name].memory}")
        print("\n".join(lines))
        for name, one in exported.items():
            packets = (one.interface_packets, one.subnet_packets / 2)
            assert packets == (traffic.packets, traffic.packets), (
                f"{name}: exported {packets} of {traffic.packets} packets"
            )
            assert one.rtts == traffic.rtts, f"{name}: exported {one.rtts} of {traffic.rtts} RTTs"
            agents[name].memory.check()
            first, last = fds[name]
            assert last - first <= MAX_NEW_FDS, f"{name}: the number of descriptors grew from {first} to {last}"
        return lines


def _churn(
    duration_s: float, traffic: Traffic, collectors: Collectors, agents: dict[str, Agent], exported: dict[str, Exported]
) -> dict[str, tuple[int, int]]:
    """Run round after round.

    For each agent, return the number of open descriptors after the first round, and after the last round.
    """

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

    def is_over() -> bool:
        elapsed_s = time.monotonic() - began + CHURN_S
        flat = elapsed_s >= duration_s and all(agent.memory.looks_flat() for agent in agents.values())
        return flat or elapsed_s >= 2 * duration_s

    began, first = time.monotonic(), dict[str, int]()
    while not is_over():
        traffic.replace_an_interface()
        speak_until(time.monotonic() + 0.3 * CHURN_S)
        collectors.take_away()
        exported["delta"].take(collectors.direct)
        speak_until(time.monotonic() + 0.3 * CHURN_S)
        collectors.bring_back()
        speak_and_ask(0.4 * CHURN_S)
        exported["cumulative"].take(collectors.behind)
        for agent in agents.values():
            assert agent.process.poll() is None, agent.log
        first = first or fds()
    speak_until(time.monotonic() + CHURN_S)
    for agent in agents.values():
        assert agent.log.count("export failed") == agent.log.count("succeed again"), agent.log
    last = fds()
    return {name: (first[name], last[name]) for name in agents}


def _settle(sink: Sink) -> None:
    """Wait until the collector has forwarded all requests: until the sink has received no request for a second."""
    count, since = -1, time.monotonic()
    while time.monotonic() - since < 1:
        if len(sink.received) != count:
            count, since = len(sink.received), time.monotonic()
        time.sleep(0.05)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.long.soak", description=__doc__)
    parser.add_argument("minutes", type=float, nargs="?", default=20.0, help="duration of the run (default: 20)")
    run(parser.parse_args().minutes * 60)
    print("all packets and RTTs were exported exactly once")


if __name__ == "__main__":
    main()
