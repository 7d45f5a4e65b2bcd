# SPDX-License-Identifier: Apache-2.0
"""The settings of the kernel program, and the constants with which the program is compiled.

`bpf/config.h` describes each constant. A test checks that the defaults in `bpf/config.h` and in this file are the same.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from otel_epping.errors import EppingError
from otel_epping.kernel import embedded_ipv4, methods
from otel_epping.kernel.buckets import RTT_MAX_NS, SCALES, bucket_count
from otel_epping.networks.network import MAX_PREFIXES

_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h

# The slot cache of each CPU has 2^bits rows. With named networks, the cache has an entry for each active address of a
# split subnet, and a packet without an entry takes longer (docs/performance.md). So there are at least two rows for
# each prefix, because an entry can be in only two of the rows, and other entries may occupy both of these rows. On a
# machine with many CPUs, there are fewer rows, so that all CPUs together need at most _MAX_SLOT_CACHE_BYTES.
_SLOT_CACHE_BITS = 12
_SLOT_CACHE_BITS_WITH_NAMES = 14
_MAX_SLOT_CACHE_BYTES = 64 << 20

_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")

# How the program is attached to interfaces: by TCX links or by clsact filters. "auto" means TCX if the kernel supports
# TCX, and clsact otherwise.
HOOKS = ("auto", "tcx", "clsact")

# The smallest and the largest value of each setting.
LIMITS: dict[str, tuple[int, int]] = {
    "max_subnets": (1, 4_000_000),
    "max_flows": (64, 16_000_000),
    "prefix_v4": (0, 32),
    "prefix_v6": (0, 128),
    "sample_interval_ns": (0, RTT_MAX_NS),
    "max_age_ns": (1_000_000, 600_000_000_000),
    "scale": (SCALES[0], SCALES[-1]),
}
# The smallest, the largest and the default value of EppingCollector's idle timeout.
IDLE_TIMEOUTS_NS = (0, 366 * 24 * 3600 * 10**9)
IDLE_TIMEOUT_NS = 3600 * 10**9


def possible_cpus() -> int:
    """Returns the highest possible CPU number plus one (the kernel's nr_cpu_ids).

    Tables with counters for each CPU have a row for each CPU number below the result. Raises EppingError if /sys cannot
    be read.
    """
    try:
        ranges = _POSSIBLE_CPUS.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise EppingError(
            f"cannot read {_POSSIBLE_CPUS} ({error.strerror}): mount /sys; read-only is enough"
        ) from error
    return int(ranges.replace("-", ",").split(",")[-1]) + 1


def tick_ns() -> int:
    """Returns the time between two ticks of the kernel's timer, in ns: the resolution of the kernel's coarse clocks."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)


@dataclass(frozen=True)
class EppingConfig:
    """Configuration of the kernel program. Raises EppingError for a value out of range.

    max_subnets         number of subnets for which there is room, if each subnet is seen on two interfaces, has
                        RTTs of one or two methods, and has its RTTs in few buckets (see max_slots, max_histograms and
                        max_blocks). If there is no room, packets of answered subnets are counted in the overflow
                        slot, and RTTs in the overflow histogram
    max_flows           number of entries in the TCP flow table
    prefix_v4           prefix length of IPv4 subnets, in bits
    prefix_v6           prefix length of IPv6 subnets, in bits
    sample_interval_ns  minimum time between two RTT samples of a flow in one direction, in ns. 0: all samples are taken
    max_age_ns          maximum RTT, in ns. Longer RTTs are not counted
    scale               scale of the exponential histograms. A range from x to 2x has 2^scale buckets
    methods             names of the methods that measure RTTs (docs/methods.md)
    tunnels             if true, measures the packets inside GRE, VXLAN and IP-in-IP tunnels, not the outer packets
    hook                "tcx", "clsact" or "auto". "auto" means "tcx" if the kernel has TCX (Linux 6.6 and later), and
                        "clsact" otherwise
    copies              if true, recognizes packets that are seen twice, at mirror ports and in captures
    named_networks      if true, the program looks up the named networks of addresses. If EppingCollector is called with
                        networks, it sets this field to true
    named_prefixes      number of prefixes for which the slot cache has room, if named_networks is true. EppingCollector
                        sets this field to the number of prefixes of its networks. More prefixes are possible, but then
                        packets may take longer
    embedded_ipv4       kinds of IPv6 addresses that count for the IPv4 address inside them: "nat64" (64:ff9b::/96),
                        "6to4", "teredo", "mapped" (::ffff:0:0/96), "none", and prefixes of NAT64 in CIDR notation
    events              if true, writes each RTT and each flow event to a ring buffer, for `otel-epping watch`
    packet_clock        if true, reads the time from the packets of a capture, not from the kernel's clock
    """

    max_subnets: int = 16_384
    max_flows: int = 80_000
    prefix_v4: int = 24
    prefix_v6: int = 48
    sample_interval_ns: int = 100_000_000
    max_age_ns: int = 10_000_000_000
    scale: int = 4
    methods: tuple[str, ...] = methods.ALL
    tunnels: bool = False
    hook: str = HOOKS[0]
    named_networks: bool = False
    named_prefixes: int = 0
    embedded_ipv4: tuple[str, ...] = (embedded_ipv4.NAT64,)
    copies: bool = False
    events: bool = False
    packet_clock: bool = False

    def __post_init__(self) -> None:
        for name, (minimum, maximum) in LIMITS.items():
            value = getattr(self, name)
            if not minimum <= value <= maximum:
                raise EppingError(f"{name} is {value}: it must be from {minimum} to {maximum}")
        if self.hook not in HOOKS:
            raise EppingError(f"hook is {self.hook!r}: it must be one of {', '.join(HOOKS)}")
        methods.mask(self.methods)
        embedded_ipv4.nat64_prefixes(self.embedded_ipv4)

    @property
    def max_slots(self) -> int:
        """Number of slots. Each combination of subnet, interface and side needs a slot.

        A router sees most subnets on two interfaces: on the interface towards the subnet, and on the interface towards
        the hosts with which the subnet communicates.
        """
        return 2 * self.max_subnets + self.reserve

    @property
    def reserve(self) -> int:
        """Number of slots that are kept free for new subnets. If fewer slots are free, slots are reclaimed."""
        return max(1, self.max_subnets // 8)

    @property
    def max_histograms(self) -> int:
        """Number of histograms. Each combination of slot and method with an RTT needs a histogram."""
        return 3 * self.max_subnets

    @property
    def max_blocks(self) -> int:
        """Number of blocks of 16 buckets, without the blocks of the overflow histogram."""
        return (15 * self.max_subnets // 2) << max(0, self.scale - 4)

    @property
    def slot_cache_bits(self) -> int:
        """Number of bits of a row number in the slot cache of one CPU."""
        if not self.named_networks:
            return _SLOT_CACHE_BITS
        row_bytes = 48 if self.prefix_v6 > 64 else 32  # struct slot_cache_entry in bpf/flow_maps.h
        wanted = max(_SLOT_CACHE_BITS_WITH_NAMES, (2 * self.named_prefixes - 1).bit_length())
        most = (_MAX_SLOT_CACHE_BYTES // (row_bytes * possible_cpus())).bit_length() - 1
        return max(_SLOT_CACHE_BITS, min(wanted, most))

    def defines(self) -> dict[str, int | str]:
        """Returns the constants of `bpf/config.h`, by name."""
        constants: dict[str, int | str] = {
            name.upper(): int(getattr(self, name)) for name in (*LIMITS, "tunnels", "copies", "events", "packet_clock")
        }
        constants["METHODS"] = methods.mask(self.methods)
        constants |= {"NETWORKS": int(self.named_networks), "MAX_PREFIXES": MAX_PREFIXES}
        constants["SLOT_CACHE_BITS"] = self.slot_cache_bits
        del constants["MAX_SUBNETS"]
        constants |= {"MAX_SLOTS": self.max_slots, "MAX_HISTOGRAMS": self.max_histograms, "MAX_BLOCKS": self.max_blocks}
        constants |= embedded_ipv4.defines(self.embedded_ipv4)
        return constants | {"BUCKETS": bucket_count(self.scale), "CPUS": possible_cpus(), "TICK_NS": tick_ns()}
