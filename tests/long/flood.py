# SPDX-License-Identifier: Apache-2.0
"""Sends a flood through the program: packets of forged sources, or answers of an attacker's subnets. At the same time,
real networks communicate.

All packets of a second are built as arrays, and BPF_PROG_TEST_RUN sends the packets in the order of their times. Each
real network answers one request per second: a SYN, an echo request or a DNS query, over IPv4 or IPv6. Half of the real
networks start before the flood, and the other half start while the flood runs. A forged source sends one SYN, UDP
datagram or echo request. We answer SYNs and echo requests, but the forged source never answers.
"""

import ipaddress
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from opentelemetry.sdk.metrics.export import ResourceMetrics
from opentelemetry.sdk.resources import Resource

from bench import fresh_process
from bench.million_subnets import checked
from bench.packets import Bytes, Packets, put
from bench.programs import OURS, Contender
from bench.timed_runs import TimedRuns, one_cpu
from otel_epping.kernel.arrays import Indexes
from otel_epping.kernel.config import EppingConfig
from otel_epping.otel import metric_table
from otel_epping.otel.export_settings import ExportSettings
from otel_epping.otel.otlp.encoder import BatchEncoder
from otel_epping.otel.producer import EppingMetricProducer
from otel_epping.series.limits import Limits
from tests.long.fuzz import builders
from tests.long.fuzz.meaning import ACK, SYN
from tests.support.many_subnets import IO, PACKETS, RTTS, Receiver
from tests.support.prog_test_run import EGRESS, INGRESS, MS, SECOND, START_NS, Bench

CONFIG = EppingConfig(packet_clock=True, sample_interval_ns=0)
# With `roll_up`, three quarters of the series are for individual subnets.
LIMITS = Limits(max_series=4096, roll_up=True)
IDLE_MB = 63  # the memory of the agent without active subnets (docs/performance.md)
RTT_NS = 20 * MS
_US = {4: bytes((192, 0, 2, 1)), 6: ipaddress.IPv6Address("2001:db8::1").packed}
_SOURCES = {4: 26, 6: 22}  # the offset of the source address in a frame
_MAX_FRAME = 128
_SYN, _ECHO, _DNS, _ACK = range(4)
_PORTS = {_SYN: 443, _ACK: 443, _DNS: 53, _ECHO: 0}
_KINDS = [(form, version) for form in (_SYN, _ECHO, _DNS) for version in (4, 6)]
# The attacker's IPv6 /32, and the IPv6 /32 networks of the real networks.
_ATTACKER, _REAL_V6 = 0x2A10_0666, 0x2A00_0000
_REAL_V4, _BLOCKS_V4 = 60, 40  # the first byte, and the number of different first bytes


@dataclass(frozen=True)
class Scenario:
    """The number of networks of each kind, and all times in s.

    attackers  the number of /48 networks that answer
    stay_s     the time for which each real network communicates; 0: until the end. If it is not 0, the real networks
               start one after the other
    """

    forged: int = 1_000_000
    attackers: int = 0
    real: int = 2_000
    start_s: int = 10
    flood_s: int = 60
    after_s: int = 60
    stay_s: int = 0

    @property
    def duration_s(self) -> int:
        return self.start_s + self.flood_s + self.after_s

    @property
    def starts_s(self) -> npt.NDArray[np.int64]:
        """The second in which each real network starts."""
        late = self.start_s + np.arange(self.real) * self.flood_s // self.real
        return np.where((np.arange(self.real) % 2 == 0) & (self.stay_s == 0), 0, late)


def network_of(number: int) -> str:
    """Returns a real network."""
    if number // 3 % 2:
        return str(ipaddress.IPv6Network((_real_v6(np.array([number])).tobytes(), 48), strict=False))
    return str(ipaddress.IPv4Network((_real_v4(np.array([number])).tobytes(), 24), strict=False))


def _addresses(high: Indexes, size: int) -> Bytes:
    """Returns addresses of `size` bytes. `high`: whole IPv4 addresses, or the first 8 bytes of IPv6 addresses."""
    wide = high.astype(">u8").view(np.uint8).reshape(-1, 8)
    if size == 4:
        return wide[:, 4:].copy()
    return np.concatenate([wide, np.tile(np.frombuffer(bytes(7) + b"\x01", np.uint8), (len(high), 1))], axis=1)


def _real_v4(numbers: Indexes) -> Bytes:
    return _addresses((_REAL_V4 + numbers % _BLOCKS_V4 << 24) | numbers << 8 | 1, 4)


def _real_v6(numbers: Indexes) -> Bytes:
    return _addresses((_REAL_V6 + numbers % _BLOCKS_V4 << 32) | numbers << 16, 16)


def _frame(form: int, version: int, egress: bool, is_request: bool) -> bytes:
    """Returns a frame in which the remote address is 0, and the client port or the identifier is 0."""
    ports = (0, _PORTS[form]) if is_request else (_PORTS[form], 0)
    if form == _ECHO:
        segment = builders.echo(version, is_request, 0, 1)
    elif form == _DNS:
        segment = builders.udp(ports, builders.dns(7, not is_request))
    elif form == _ACK:
        segment = builders.tcp(ports, 101, 501, ACK)
    else:
        segment = builders.tcp(ports, *((100, 0, SYN) if is_request else (500, 101, SYN | ACK)))
    protocol = {_ECHO: builders.icmp_protocol(version), _DNS: 17}.get(form, 6)
    here, there = _US[version], bytes(len(_US[version]))
    ends = (here, there) if egress else (there, here)
    return builders.link((), version) + builders.ip(*ends, protocol, segment)


class Second:
    """Collects the packets of one second."""

    def __init__(self) -> None:
        self._parts: list[tuple[Bytes, npt.NDArray[np.uint32], npt.NDArray[np.bool_], Indexes]] = []

    def add(
        self, form: int, remotes: Bytes, numbers: Indexes, times_ns: Indexes, *, egress: bool, is_request: bool
    ) -> None:
        """Adds one packet from each remote host, or one packet to each remote host.

        numbers  the client ports of TCP and UDP, and the identifiers of echo packets
        """
        version = 4 if remotes.shape[1] == 4 else 6
        frame = _frame(form, version, egress, is_request)
        rows = np.tile(np.frombuffer(frame.ljust(_MAX_FRAME, b"\0"), np.uint8), (len(remotes), 1))
        source = _SOURCES[version]
        at = source + remotes.shape[1] * egress
        rows[:, at : at + remotes.shape[1]] = remotes
        transport = source + 2 * remotes.shape[1]
        put(rows, transport + (4 if form == _ECHO else 0 if is_request else 2), numbers, 2)
        count = len(rows)
        self._parts.append((rows, np.full(count, len(frame), np.uint32), np.full(count, egress), times_ns))

    def send(self, contender: Contender) -> tuple[int, int]:
        """Sends all packets through the program. Returns the numbers of packets and bytes."""
        if not self._parts:
            return 0, 0
        rows, sizes, egress, times_ns = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(times_ns, kind="stable")
        runs = TimedRuns(contender, Packets(rows[order], sizes[order], egress[order]))
        runs.contexts["tstamp"] = times_ns[order]
        runs.run()
        return len(rows), int(sizes.sum())


class Flood:
    """Sends the packets of a scenario, second by second.

    truth    the numbers of packets and bytes; each packet counts twice, for two subnets
    rtts     the number of answers of each real network
    forged   the number of sources that have sent packets
    now_ns   the time of the packets, which is also the clock of idle times
    """

    def __init__(self, bench: Bench, scenario: Scenario) -> None:
        self.scenario, self.truth, self.rtts = scenario, Counter[str](), Counter[int]()
        self.forged = 0
        self.now_ns = START_NS
        self._bench, self._chance = bench, np.random.default_rng(1)
        points = bench.collector.program.entry_points
        self._contender = Contender(OURS, {"ingress": points[INGRESS], "egress": points[EGRESS]})
        bench.collector.slots.now_ns = lambda: self.now_ns

    def run(self, each_10_s: Callable[[int], None]) -> None:
        """Sends all packets. Calls `each_10_s` with the time in s every 10 s of the packets' time."""
        with one_cpu():
            for second in range(1, self.scenario.duration_s + 1):
                self.send(second - 1)
                self._bench.collector.fold_newcomers()
                if second % 10 == 0:
                    each_10_s(second)

    def send(self, second: int) -> None:
        """Sends the packets of a second."""
        scenario, packets = self.scenario, Second()
        self._add_real(packets, second)
        passed_s = second - scenario.start_s
        if 0 <= passed_s < scenario.flood_s:
            for total, add in ((scenario.forged, self._add_forged), (scenario.attackers, self._add_attackers)):
                begin, end = (total * each // scenario.flood_s for each in (passed_s, passed_s + 1))
                if begin < end:
                    add(packets, np.arange(begin, end))
        count, octets = packets.send(self._contender)
        self.truth += Counter({PACKETS: 2 * count, IO: 2 * octets})
        self.now_ns += SECOND

    def _times(self, count: int) -> Indexes:
        return self.now_ns + self._chance.integers(0, SECOND - 2 * RTT_NS, count)

    def _add_real(self, packets: Second, second: int) -> None:
        age_s = second - self.scenario.starts_s
        active = np.flatnonzero((age_s >= 0) & (age_s < (self.scenario.stay_s or self.scenario.duration_s)))
        self.rtts.update(active.tolist())
        for form, version in _KINDS:
            numbers = active[(active % 3 == form) & ((active // 3 % 2 == 1) == (version == 6))]
            remotes, times_ns = (_real_v6 if version == 6 else _real_v4)(numbers), self._times(len(numbers))
            clients = np.full(len(numbers), 1024 + second)
            packets.add(form, remotes, clients, times_ns, egress=True, is_request=True)
            packets.add(form, remotes, clients, times_ns + RTT_NS, egress=False, is_request=False)

    def _add_forged(self, packets: Second, numbers: Indexes) -> None:
        self.forged += len(numbers)
        for form, version in _KINDS:
            count = int(np.count_nonzero(numbers % 6 == form + 3 * (version == 6)))
            if version == 6:
                remotes = _addresses(self._chance.integers(0x2000 << 48, 0x4000 << 48, count), 16)
            else:
                remotes = _addresses(self._chance.integers(1 << 24, 224 << 24, count), 4)
            clients, times_ns = self._chance.integers(1024, 60_000, count), self._times(count)
            packets.add(form, remotes, clients, times_ns, egress=False, is_request=True)
            if form != _DNS:
                packets.add(form, remotes, clients, times_ns + MS, egress=True, is_request=False)

    def _add_attackers(self, packets: Second, numbers: Indexes) -> None:
        """Adds a handshake with each subnet of the attacker."""
        self.forged += len(numbers)
        remotes, times_ns = _addresses(_ATTACKER << 32 | numbers << 16, 16), self._times(len(numbers))
        clients = 1024 + numbers % 60_000
        packets.add(_SYN, remotes, clients, times_ns, egress=False, is_request=True)
        packets.add(_SYN, remotes, clients, times_ns + MS, egress=True, is_request=False)
        packets.add(_ACK, remotes, clients, times_ns + RTT_NS, egress=False, is_request=True)


@dataclass
class Outcome:
    """The result of a scenario.

    own           the number of RTTs of real networks that were exported in series of the networks' own
    answers       the number of RTTs of real networks
    exported      the exported packets, bytes and RTTs, summed over all series
    truth         the packets, bytes and RTTs that the program has counted
    most_series   the maximum number of subnets and covering prefixes in an export
    unanswered    the exported numbers of subnets that have not answered, summed over all exports
    usage         the slots, newcomers, histograms and blocks in use: at the end of each 10 s
    """

    own: int
    answers: int
    exported: Counter[str]
    truth: Counter[str]
    most_series: int
    unanswered: int
    usage: dict[int, dict[str, int]]

    @property
    def share(self) -> float:
        """The share of the real networks' RTTs that are exported in series of individual networks."""
        return self.own / self.answers

    def check(self, scenario: Scenario, config: EppingConfig, limits: Limits) -> None:
        """Raises AssertionError if the flood has hidden a real network, or if counts were lost."""
        assert self.share >= 0.99, f"only {self.own} of {self.answers} RTTs are in series of their own"
        assert self.exported == self.truth
        assert limits.max_series is None or self.most_series <= limits.max_series
        after = self.usage[scenario.duration_s]
        if scenario.attackers or scenario.stay_s:
            assert after["slots"] <= config.max_slots - config.reserve, after
        else:
            # Our own two networks have answered, too.
            assert (after["slots"], after["newcomers"]) == (scenario.real + 2, 0), after
            assert 0.9 * scenario.forged <= self.unanswered <= 1.2 * scenario.forged


def run(bench: Bench, limits: Limits, scenario: Scenario) -> Outcome:
    """Sends the packets of a scenario, and adds up the exports. There is an export every 10 s of the packets' time."""
    flood = Flood(bench, scenario)
    producer = EppingMetricProducer(bench.collector, settings=ExportSettings(limits=limits))
    receiver = Receiver(producer)
    receiver.export()  # the counts of earlier tests
    before = _exported(receiver)
    outcome = Outcome(0, 0, Counter(), Counter(), 0, 0, {})
    with bench.counting() as counted:

        def export(second: int) -> None:
            assert receiver.export()
            outcome.most_series = max(outcome.most_series, len(receiver.subnets))
            outcome.unanswered += receiver.unanswered
            outcome.usage[second] = bench.collector.slots.usage()

        flood.run(export)
    outcome.exported = _exported(receiver) - before
    outcome.truth = flood.truth + Counter({RTTS: counted["rtt_measured"]})
    rtts = receiver.by_subnet(metric_table.RTT.name)
    outcome.own = sum(min(rtts[network_of(number)], count) for number, count in flood.rtts.items())
    outcome.answers = flood.rtts.total()
    return outcome


def _exported(receiver: Receiver) -> Counter[str]:
    found = Counter({name: receiver.total(name)["value"] for name in (PACKETS, IO)})
    return found + Counter({RTTS: receiver.total(metric_table.RTT.name)[RTTS]})


def measure_agent(forged: int, attackers: int) -> dict[str, float]:
    """Sends a flood, and measures what a reader and an exporter need: added memory in MB, and the share of a CPU.

    Call this function in a process of its own.
    """
    bench = Bench(CONFIG)
    flood = Flood(bench, Scenario(forged, attackers))
    producer = EppingMetricProducer(bench.collector, settings=ExportSettings(limits=LIMITS))
    encoder = BatchEncoder(bench.config)
    kept_mb = peak_mb = cpu_s = 0.0
    resource = ResourceMetrics(Resource({}), [], "")

    def export(_: int) -> None:
        nonlocal kept_mb, peak_mb, cpu_s
        begin_mb = fresh_process.status_mb("VmRSS")
        with fresh_process.measure_usage() as usage:
            producer.read()
            for batch in producer.batches():
                encoder.request([resource], batch)
                producer.acknowledge(batch)
        # The memory that the packets occupy is not included.
        peak_mb, cpu_s = max(peak_mb, kept_mb + usage.peak_mb), cpu_s + usage.cpu_s
        kept_mb += fresh_process.status_mb("VmRSS") - begin_mb

    flood.run(export)
    return {"added_mb": peak_mb, "cpu_share": cpu_s / flood.scenario.duration_s}


def main() -> None:
    """Prints the results of two floods with a million sources, and checks them."""
    predicted = checked(["--sample-interval", "0"])
    for title, scenario in {
        "1,000,000 forged sources": Scenario(),
        "65,536 answering /48s of one /32": Scenario(forged=0, attackers=65_536),
    }.items():
        bench = Bench(CONFIG)
        outcome = run(bench, LIMITS, scenario)
        kernel_mib = sum(bench.collector.kernel_bytes.values()) / 2**20
        bench.close()
        agent = fresh_process.call(measure_agent, forged=scenario.forged, attackers=scenario.attackers)
        print(
            f"\n{title} in {scenario.flood_s} s, {scenario.real} real networks; max_subnets {CONFIG.max_subnets}, "
            f"max_series {LIMITS.max_series}\n"
            f"  RTTs of real networks in series of their own: {outcome.own} of {outcome.answers}, {outcome.share:.2%}\n"
            f"  exported {dict(outcome.exported)}\n  counted  {dict(outcome.truth)}\n"
            f"  at most {outcome.most_series} subnets and covering prefixes in an export\n"
            f"  subnets that have not answered, added up over the exports: {outcome.unanswered}\n"
            f"  in use at the end of the flood {outcome.usage[scenario.start_s + scenario.flood_s]}\n"
            f"  in use {scenario.after_s} s later      {outcome.usage[scenario.duration_s]}\n"
            f"  {kernel_mib:.1f} MiB in the kernel ({predicted['kernel']} by check); the agent needs "
            f"{agent['added_mb']:.1f} MB more than when idle, and {agent['cpu_share']:.1%} of a CPU",
            flush=True,
        )
        outcome.check(scenario, CONFIG, LIMITS)
        assert kernel_mib <= 1.01 * predicted["kernel"]
        assert IDLE_MB + agent["added_mb"] <= predicted["agent"] * 2**20 / 1e6
