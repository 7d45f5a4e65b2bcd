# SPDX-License-Identifier: Apache-2.0
"""Creates episodes: sequences of packets. Each episode depends only on the seed, the number and the configuration.

Most episodes are random. A random episode consists of simultaneous conversations or of parts of captures, and most of
its packets are mutated. Every eighth episode is a sweep. A sweep goes through the cases of one of four kinds, and
continues where the previous sweep of this kind ended. The kinds of sweeps are packets truncated at every byte, TCP
options of every kind and length at every offset, chains of extension headers, and stacks of link headers.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.config import EppingConfig
from tests.long.fuzz import builders, mutations, talks
from tests.long.fuzz.flows import IDLE_NS
from tests.long.fuzz.meaning import ACK, ETHERNET, read
from tests.long.fuzz.rules import Step

START_NS = 1_760_000_000_000_000_000
MS = talks.MS
STEPS = 1000  # approximate number of packets in an episode
SWEEP_EVERY = 8


@dataclass(frozen=True)
class Episode:
    """A sequence of packets, and the interface on which the packets appear.

    `link_header` is the length of the link header: 14 or 0 bytes. `role` is None if the interface is not registered in
    the program.
    """

    name: str
    steps: list[Step]
    link_header: int = ETHERNET
    role: Role | None = Role.WAN

    @property
    def mutated(self) -> int:
        """The number of packets that were truncated, changed, reordered or repeated, or whose time was changed."""
        return sum(bool(step.note) for step in self.steps)


def make(seed: str, index: int, config: EppingConfig) -> Episode:
    """Returns the episode with this number.

    The configuration determines the length of silences and the share of packets in tunnels.
    """
    chance = random.Random(f"{seed}/{index}")
    if index % SWEEP_EVERY == SWEEP_EVERY - 1:
        return sweep(chance, index // SWEEP_EVERY)
    link_header = chance.choice((ETHERNET, ETHERNET, ETHERNET, 0))
    role = chance.choice([*Role, Role.WAN, *([None] if link_header else [])])
    share = 0.6 if config.tunnels else 0.04
    if talks.captures() and chance.random() < 0.3:
        steps = talks.captured(chance, link_header, STEPS)
        name = "captured"
    else:
        steps = []
        while len(steps) < STEPS:
            talk = chance.choice(talks.TALKS)
            begin = chance.randrange(10_000) * MS
            steps += [
                step._replace(at_ns=step.at_ns + begin)
                for step in talk(chance, talks.any_hosts(chance, link_header, share))
            ]
        steps.sort(key=lambda step: step.at_ns)
        name = "talks"
    return Episode(name, disturbed(chance, steps, link_header, config.max_age_ns), link_header, role)


def disturbed(chance: random.Random, steps: list[Step], link_header: int, max_age_ns: int) -> list[Step]:
    """Returns the steps with disturbances.

    Most packets are mutated. Some packets are lost, duplicated or reordered. There are additional silences, and the
    time of some packets is earlier than the time of the previous packet.
    """
    share = chance.choice((0.3, 0.6, 0.9, 1.0))
    shift_ns, result = START_NS, []
    for step in steps:
        if chance.random() < 0.002:
            shift_ns += chance.choice((max_age_ns, max_age_ns + 1, max_age_ns // 2, 100 * MS, IDLE_NS, IDLE_NS + 1))
        step = mutations.fit(step._replace(at_ns=step.at_ns + shift_ns))
        if chance.random() < share:
            step = mutations.mutate(chance, step, link_header)
        place = chance.random()
        if place < 0.02:
            continue
        result.append(step)
        if place < 0.04:
            result.append(step._replace(note=step.note + " sent twice"))
        elif place < 0.06 and len(result) > 3:
            other = chance.randrange(2, 4)
            result[-1], result[-other] = result[-other], result[-1]
            result[-1] = result[-1]._replace(note=result[-1].note + " overtaken")
        elif place < 0.065:
            result[-1] = step._replace(
                at_ns=step.at_ns - chance.randrange(300 * MS), note=step.note + " time gone back"
            )
    return result


def sweep(chance: random.Random, number: int) -> Episode:
    """Returns a sweep. `number` determines the kind of the sweep."""
    sweeps: tuple[Callable[[random.Random, int], Episode], ...] = (
        cut_everywhere,
        every_option,
        every_chain,
        every_stack,
    )
    return sweeps[number % len(sweeps)](chance, number // len(sweeps))


def numbered(name: str, packets: Iterator[bytes | tuple[bytes, int]], link_header: int = ETHERNET) -> Episode:
    """Returns an episode with one packet per millisecond, received and transmitted alternately."""
    steps = []
    for place, packet in enumerate(itertools.islice(packets, 2 * STEPS)):
        frame, wire_length = packet if isinstance(packet, tuple) else (packet, 0)
        steps.append(mutations.fit(Step(place % 2 == 0, frame, START_NS + place * MS, wire_length, note=name)))
    return Episode(name, steps, link_header)


def any_packet(chance: random.Random, link_header: int) -> Step:
    """Returns a random packet of a random conversation."""
    return chance.choice(chance.choice(talks.TALKS)(chance, talks.any_hosts(chance, link_header)))


def cut_everywhere(chance: random.Random, number: int) -> Episode:
    """Truncates packets at every byte.

    Each truncated packet occurs twice: truncated on the network, and truncated only in the capture. The packets
    of every second episode have a link header.
    """
    link_header = ETHERNET * (number % 2)

    def packets() -> Iterator[tuple[bytes, int]]:
        while True:
            frame = any_packet(chance, link_header).frame
            for size in range(len(frame), mutations.SHORTEST_FRAME - 1, -1):
                yield frame[:size], 0
                yield frame[:size], len(frame)

    return numbered("cut at every byte", packets(), link_header)


def every_option(chance: random.Random, number: int) -> Episode:
    """Creates TCP options: some NOPs, an option of each kind and length, and a timestamp, in TCP headers of each size.

    The next sweep of this kind continues with the next cases.
    """
    kinds = (0, 1, 2, 3, 4, 5, 8, 19, 30, 254)
    cases = itertools.product(range(0, 41, 4), range(4), kinds, range(42))
    count = 11 * 4 * len(kinds) * 42
    hosts = talks.any_hosts(chance, ETHERNET)

    def packets() -> Iterator[bytes]:
        start = number * 2 * STEPS % count
        for place, (room, before, kind, size) in enumerate(itertools.islice(itertools.cycle(cases), start, None)):
            clock = number * 2 * STEPS + place
            option = bytes([kind, size]) + bytes([1]) * (size - 2)
            options = (bytes([1]) * before + option + builders.timestamp(clock, clock - 1)[2:]).ljust(40, b"\x01")[
                :room
            ]
            # The packets are received and transmitted alternately. If two consecutive packets have a timestamp, the
            # second packet echoes the TSval of the first packet.
            ports = (443, 40_000) if place % 2 == 0 else (40_000, 443)
            segment = builders.tcp(ports, clock, clock, ACK, options, b"data")
            yield hosts.step(place % 2 == 1, 6, segment, 0).frame

    return numbered("every TCP option", packets())


def every_chain(chance: random.Random, number: int) -> Episode:
    """Creates chains of up to three IPv6 extension headers.

    Each combination of kinds occurs. The lengths are random.
    """
    chains = [chain for length in range(4) for chain in itertools.product(mutations.EXTENSIONS, repeat=length)]
    hosts = talks.any_hosts(chance, 0)
    while hosts.version != 6:
        hosts = talks.any_hosts(chance, 0)

    def packets() -> Iterator[bytes]:
        start = number * 2 * STEPS % len(chains)
        for place, chain in enumerate(itertools.islice(itertools.cycle(chains), start, None)):
            clock = number * 2 * STEPS + place
            ports = (443, 40_000) if place % 2 == 0 else (40_000, 443)
            segment = builders.tcp(ports, clock, clock, ACK, builders.timestamp(clock, clock - 1), b"data")
            protocols = [*chain, 6]
            headers = b"".join(
                builders.extension(protocol, following, chance.choice((0, 0, 1, 3)))
                for protocol, following in itertools.pairwise(protocols)
            )
            yield hosts.step(place % 2 == 1, protocols[0], headers + segment, 0).frame

    return numbered("every chain of extension headers", packets(), 0)


def every_stack(chance: random.Random, number: int) -> Episode:
    """Creates stacks of link headers, in sensible and in meaningless orders.

    Some stacks have more headers than the program permits. Some packets are truncated.
    """
    stacks = [stack for length in range(3) for stack in itertools.product(builders.ALL_LINKS, repeat=length)]
    stacks += [stack for length in range(3, 5) for stack in itertools.product(builders.LINKS, repeat=length)]
    stacks += [(name,) * length for name in builders.ALL_LINKS for length in range(3, 11)]

    def packets() -> Iterator[bytes]:
        start = number * 2 * STEPS % len(stacks)
        for place, stack in enumerate(itertools.islice(itertools.cycle(stacks), start, None)):
            clock = number * 2 * STEPS + place
            hosts = talks.any_hosts(chance, 0)
            link = builders.link(stack, hosts.version, chance.getrandbits(20))
            ports = (443, 40_000) if place % 2 == 0 else (40_000, 443)
            segment = builders.tcp(ports, clock, clock, ACK, builders.timestamp(clock, clock - 1), b"data")
            frame = link + hosts.step(place % 2 == 1, 6, segment, 0).frame
            yield frame if chance.random() < 0.8 else frame[: chance.randrange(14, len(link) + 4)]

    return numbered("every stack of link headers", packets())


def layout(frame: bytes, link_header: int) -> str:
    """Describes the layout of a packet in one line, for a report."""
    meaning = read(frame, link_header, len(frame))
    return f"{meaning.kind} v{meaning.version} network at {meaning.network_at}, transport at {meaning.transport_at}"
