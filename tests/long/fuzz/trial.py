# SPDX-License-Identifier: Apache-2.0
"""Runs an episode through the kernel program and the model, and reports disagreements between the program and the
model.

Before each episode, the flows, pending requests and subnets in the program's maps are removed, and all slots and
their counters are freed. The counters of interfaces and shared slots are not reset. The program only increments
counters. The result of an episode is the number by which each counter increased during the episode.
"""

import bisect
import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from otel_epping.kernel import map_array, methods
from otel_epping.kernel.arrays import Counts, Words
from otel_epping.kernel.attach.interfaces import Interface, Role
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read.histograms import numbers_of
from otel_epping.kernel.read.reader import READ
from otel_epping.kernel.read.slot_tables import SlotTables, states_of
from otel_epping.kernel.reading import OVERFLOW_SLOT, UNANSWERED_SLOT
from tests.long.fuzz.episodes import Episode
from tests.long.fuzz.rules import CLASSES, Model, Step, Tally
from tests.long.fuzz.slots import HASH_KEY, OVERFLOW, OVERFLOW_HISTOGRAM, UNANSWERED, Histogram, Slots, Subnet, edges
from tests.support.flow_table import forget_flows
from tests.support.prog_test_run import EGRESS, INGRESS, Bench

_MAP_TYPES_OF_KEYS = {1: "hash", 9: "lru_hash"}  # enum bpf_map_type, linux/bpf.h
# The counters of ended RTT samples. Each started RTT sample must be pending or be counted in one of these counters.
ENDS = ("rtt_measured", "rtt_expired", "rtt_superseded", "rtt_repeated", "rtt_abandoned")
STATES = ("shared", "newcomer", "answered")
_MAPPED = bytes(10) + b"\xff\xff"
_IFINDEX = 1

_library = ctypes.CDLL("libbpf.so.1", use_errno=True)


@dataclass(frozen=True)
class Fixed(EppingConfig):
    """A configuration whose hash functions have a fixed key, so that the model can compute the same hashes."""

    def defines(self) -> dict[str, int | str]:
        return super().defines() | {"HASH_KEY": HASH_KEY}


@dataclass(frozen=True)
class Snapshot:
    """A copy of all counts of the program at one moment. `overflow` contains the buckets of the overflow histogram."""

    interface: Counter[str]
    traffic: Counts
    behaviour: dict[str, Counts]
    ended: Counts
    sums: Counts
    overflow: Words


class HashMap:
    """A hash map of the program. One system call reads and deletes all elements of the hash map."""

    def __init__(self, fd: int) -> None:
        info = map_array.map_info(fd)
        self._fd, self._most = fd, info["max_entries"]
        self._key_size, self._value_size = info["key_size"], info["value_size"]
        self._keys = ctypes.create_string_buffer(self._key_size * self._most)
        self._values = ctypes.create_string_buffer(self._value_size * self._most)
        self._place = ctypes.create_string_buffer(8)

    def take_all(self) -> list[tuple[bytes, bytes]]:
        """Returns all elements, and deletes them from the map."""
        count = ctypes.c_uint32(self._most)
        result = _library.bpf_map_lookup_and_delete_batch(
            self._fd, None, self._place, self._keys, self._values, ctypes.byref(count), None
        )
        if result < 0 and ctypes.get_errno() != 2:  # ENOENT: the map has no more elements
            raise OSError(ctypes.get_errno(), "BPF_MAP_LOOKUP_AND_DELETE_BATCH")
        keys, values = self._keys.raw, self._values.raw
        return [
            (
                keys[place * self._key_size : (place + 1) * self._key_size],
                values[place * self._value_size : (place + 1) * self._value_size],
            )
            for place in range(count.value)
        ]


class Trial:
    """Loads the program with one configuration, and compares the program with the model.

    All episodes must run on the same CPU, because an LRU map has a separate list of free entries for each CPU.
    """

    def __init__(self, config: EppingConfig) -> None:
        self.config = config
        self.rtts = 0  # the number of RTTs in the model after the last run
        self.bench = Bench(Fixed(**{each.name: getattr(config, each.name) for each in fields(config)}))
        self._flow_counters = self.bench.array("flow_counters")
        maps = self.bench.collector.program.maps
        self._subnets = HashMap(maps["subnets"].fd)
        self._used: list[int] = []  # the slots that the previous run used
        arrays = {name: map_array.Array(name, maps[name]) for name in READ}
        self._tables = SlotTables(maps, arrays, config)
        self._sketch = self.bench.array("unanswered_sketch")["word"]
        self._forgotten = [
            HashMap(entry.fd)
            for name, entry in maps.items()
            if map_array.map_info(entry.fd)["map_type"] in _MAP_TYPES_OF_KEYS and name != "subnets"
        ]

    def close(self) -> None:
        self.bench.close()

    def run(self, episode: Episode, steps: list[Step] | None = None) -> list[str]:
        """Runs the given steps of the episode (default: all steps).

        Returns a description of each disagreement between the program and the model.
        """
        self._prepare(episode)
        steps = episode.steps if steps is None else steps
        model = Model(self.config, episode.link_header, episode.role or Role.WAN)
        before = self._snapshot(known=episode.role is not None)
        feeders = {True: self.bench.feeders[INGRESS], False: self.bench.feeders[EGRESS]}
        for step in steps:
            feeder = feeders[step.ingress]
            try:
                feeder.set(step.frame, _IFINDEX, step.wire_length, step.segments)
                feeder.run(step.at_ns)
            except OSError as error:
                return [f"the kernel rejects the test run: {error}"]
            model.see(step)
        self.rtts = sum(map(len, model.tally.rtts.values()))
        return self._differences(before, self._snapshot(known=episode.role is not None), model)

    def _prepare(self, episode: Episode) -> None:
        """Removes the state of earlier episodes, and registers the interface of this episode."""
        for table in self._forgotten:
            table.take_all()
        forget_flows(self.bench.collector.program.maps)
        used = [*self._used, *(int.from_bytes(slot, "little") for _, slot in self._subnets.take_all())]
        if used:
            self._tables.free(np.array(used))
        self._used = []
        control = self.bench.collector.slots._control
        control.epoch += 1
        control.interval += 1
        control.write()
        if episode.role:
            self.bench.collector.attachments.register(Interface("lo", _IFINDEX, episode.link_header), episode.role)
        else:
            interfaces = self.bench.collector.program.maps["interfaces"]
            map_array.write(interfaces, _IFINDEX, bytes(map_array.Array("interfaces", interfaces).dtype.itemsize))

    def _snapshot(self, known: bool) -> Snapshot:
        interface: Counter[str] = Counter()
        for row in (self.bench.row, 0):
            for name, value in self.bench.counters(row).items():
                ours = (row == 0) != known
                label = name if ours else f"wrong interface: {name}"
                if isinstance(value, tuple):
                    interface[label], interface[label + " bytes"] = value
                else:
                    interface[label] = value
        histograms = self.bench.histograms
        return Snapshot(
            interface,
            self._traffic(),
            self._behaviour(),
            histograms["ended"].copy(),
            histograms["sum_ns"].copy(),
            self.bench.buckets_of(0).copy(),
        )

    def _traffic(self) -> Counts:
        """Returns the traffic. The axes of the array are: slots, directions (from, to), classes, packets or bytes."""
        rows = self.bench.traffic["classes"]
        total: Counts = np.stack(
            [[rows[way][unit].sum(1).reshape(len(rows), -1) for unit in ("packets", "bytes")] for way in ("from", "to")]
        )
        return total.transpose(2, 0, 3, 1)

    def _behaviour(self) -> dict[str, Counts]:
        """Returns the counts of all slots.

        The keys are counter names with an index, and the values are arrays of the shape (slots,).
        """
        flows = self._flow_counters
        places = [(name, place) for name in flows.dtype.names or () for place in range(flows.dtype[name].shape[0])]
        counted = {f"{name} {place}": flows[name][:, place].copy() for name, place in places}
        for name in ("ecn_from", "ecn_to"):
            codepoints = self.bench.traffic[name].sum(1, dtype=np.uint32)  # wraps around at 32 bits
            counted |= {f"{name} {place}": codepoints[:, place] for place in range(codepoints.shape[1])}
        return counted

    def _differences(self, before: Snapshot, after: Snapshot, model: Model) -> list[str]:
        tally = model.tally
        counted = Counter({name: value - before.interface[name] for name, value in after.interface.items()})
        found = [
            f"{name}: the model has {tally.interface[name]}, the program {counted[name]}"
            for name in sorted({*counted, *tally.interface})
            if tally.interface[name] != counted[name]
        ]
        waiting = self.bench.collector.waiting()
        if counted["rtt_begun"] != sum(counted[end] for end in ENDS) + waiting:
            found.append(
                f"{counted['rtt_begun']} RTT samples started. This number differs from the ended samples "
                f"plus {waiting} pending samples"
            )
        slots, wrong = self._slots()
        found += wrong
        names = {slot: subnet for subnet, slot in slots.items()}
        found += self._compare_slots(model.slots, slots)
        found += self._compare_traffic(after.traffic - before.traffic, tally, slots, names)
        found += self._compare_behaviour(before, after, tally, slots, names)
        found += self._compare_rtts(before, after, tally, names)
        return found

    def _slots(self) -> tuple[dict[Subnet, int], list[str]]:
        """Returns the slot of each subnet, and a list of errors.

        It is an error if the hash map and the slot's row have different keys for the same slot.
        """
        slots, wrong = {OVERFLOW: OVERFLOW_SLOT, UNANSWERED: UNANSWERED_SLOT}, []
        for packed, value in self._subnets.take_all():
            slot = int.from_bytes(value, "little")
            key = np.frombuffer(packed, self.bench.slots.dtype["key"])[0]
            address = key["prefix"].tobytes()
            version = int(key["family"])
            if version == 4 and not address.startswith(_MAPPED):
                wrong.append(f"slot {slot}: {address.hex()} is not IPv4")
            subnet = Subnet(version, address[-4:] if version == 4 else address, int(key["side"]))
            slots[subnet] = slot
            if self.bench.slots["key"][slot].tobytes() != packed:
                wrong.append(f"slot {slot} was assigned to {subnet}, but the row of the slot has another key")
            self._used.append(slot)
        return slots, wrong

    def _compare_slots(self, model: Slots, slots: dict[Subnet, int]) -> list[str]:
        """Compares which subnets have slots, which subnets are newcomers, and how many rows are in use."""
        states = states_of(self.bench.slots)
        program = {subnet: STATES[int(states[slot])] for subnet, slot in slots.items()}
        expected = {subnet: STATES[1 + answered] for subnet, answered in model.answered.items()}
        expected |= dict.fromkeys((OVERFLOW, UNANSWERED), STATES[0])
        found = [
            f"{subnet}: the model has this subnet {_state(expected, subnet)}, the program {_state(program, subnet)}"
            for subnet in sorted({*program, *expected})
            if program.get(subnet) != expected.get(subnet)
        ]
        if (usage := self.bench.collector.slots.usage()) != model.usage():
            found.append(f"rows in use: the model has {model.usage()}, the program {usage}")
        interval = self.bench.collector.slots._control.interval
        words = self._sketch[:, interval & 1].astype(np.int64)
        registers = {int(row): int(words[row]) & 0xFF for row in np.flatnonzero(words >> 8 == interval)}
        if registers != model.registers:
            found.append(f"sketch of newcomers: the model has {dict(model.registers)}, the program {registers}")
        return found

    def _compare_traffic(
        self, counted: Counts, tally: Tally, slots: dict[Subnet, int], names: dict[int, Subnet]
    ) -> list[str]:
        expected = np.zeros_like(counted)
        for subnet, counts in tally.traffic.items():
            for name, value in counts.items():
                way, traffic_class, unit = f"{name} packets".split()[:3]
                place = way == "to", CLASSES.index(traffic_class), unit == "bytes"
                expected[(slots.get(subnet, 0), *(int(part) for part in place))] += np.uint64(value)
        return [
            f"traffic {('from', 'to')[way]} {names.get(slot, slot)}, {CLASSES[place]} {('packets', 'bytes')[unit]}: "
            f"the model has {expected[slot, way, place, unit]}, the program {counted[slot, way, place, unit]}"
            for slot, way, place, unit in np.argwhere(expected != counted).tolist()
        ]

    def _compare_behaviour(
        self, before: Snapshot, after: Snapshot, tally: Tally, slots: dict[Subnet, int], names: dict[int, Subnet]
    ) -> list[str]:
        found = []
        for name, counts in after.behaviour.items():
            counted = counts - before.behaviour[name]
            expected = np.zeros_like(counted)
            for subnet, shown in tally.behaviour.items():
                expected[slots.get(subnet, 0)] += shown[name]
            found += [
                f"{name} of {names.get(slot, slot)}: the model has {expected[slot]}, the program {counted[slot]}"
                for slot in np.flatnonzero(expected != counted).tolist()
            ]
        return found

    def _compare_rtts(self, before: Snapshot, after: Snapshot, tally: Tally, names: dict[int, Subnet]) -> list[str]:
        numbers, found = {OVERFLOW_HISTOGRAM: 0}, []
        for slot in self._used:
            for method, number in enumerate(numbers_of(self.bench.slots["histograms"][slot][None])[0].tolist()):
                if number:
                    numbers[Histogram(names[slot], methods.METHODS[method].name)] = number
                    header = self.bench.histograms[number]
                    if (header["slot"], header["method"]) != (slot, method):
                        found.append(f"histogram {number} of slot {slot} belongs to slot {header['slot']}")
        ours = {number: histogram for histogram, number in numbers.items()}
        expected = {numbers.get(histogram, -1): rtts for histogram, rtts in tally.rtts.items()}
        if -1 in expected:
            found.append(f"the program lacks histograms of {set(tally.rtts) - set(numbers)}")
        changed = np.flatnonzero((after.ended != before.ended) | (after.sums != before.sums)).tolist()
        for number in sorted({*expected, *changed} - {-1}):
            rtts = expected.get(number, [])
            counted = self.bench.buckets_of(number) - (0 if number else before.overflow)
            in_buckets = np.zeros(len(counted), np.uint32)
            for rtt_ns in rtts:
                # Bucket i counts values that are greater than edge i, and less than or equal to edge i + 1.
                in_buckets[bisect.bisect_left(edges(self.config.scale), rtt_ns) - 1] += 1
            model = len(rtts), sum(rtts)
            program = int(after.ended[number] - before.ended[number]), int(after.sums[number] - before.sums[number])
            if model != program or (counted != in_buckets).any():
                theirs = f"{program[0]} of sum {program[1]}"
                found.append(f"RTTs of {ours.get(number, number)}: the model has {rtts}, the program {theirs}")
        return found


def _state(subnets: dict[Subnet, str], subnet: Subnet) -> str:
    return subnets.get(subnet, "without a slot")


def shrink(trial: Trial, episode: Episode, narrate: Callable[[str], None]) -> list[Step]:
    """Returns a short list of steps that still causes a disagreement.

    First drops all steps after the first disagreement. Then drops as many earlier steps as possible (Zeller's delta
    debugging).
    """
    low, high = 0, len(episode.steps)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if trial.run(episode, episode.steps[:middle]) else (middle, high)
    steps = episode.steps[:high]
    size = max(1, len(steps) // 2)
    while True:
        narrate(f"{len(steps)} packets show the disagreement")
        begin = 0
        while begin < len(steps):
            fewer = steps[:begin] + steps[begin + size :]
            if fewer and trial.run(episode, fewer):
                steps = fewer
            else:
                begin += size
        if size == 1:
            return steps
        size //= 2
