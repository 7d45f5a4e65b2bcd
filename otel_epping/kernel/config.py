# SPDX-License-Identifier: Apache-2.0
"""The knobs of the kernel program, checked, and the constants it is compiled with.

`bpf/config.h` describes each; defaults here and there are the same (a test compares them).
"""

import time
from dataclasses import dataclass
from pathlib import Path

from otel_epping.errors import EppingError
from otel_epping.kernel import methods
from otel_epping.kernel.buckets import RTT_GREATEST_NS, SCALES, bucket_count

_CLOCK_MONOTONIC_COARSE = 6  # linux/time.h

_POSSIBLE = Path("/sys/devices/system/cpu/possible")

# How the program is put on interfaces: by TCX links, clsact filters, or the first of them that the kernel has.
HOOKS = ("auto", "tcx", "clsact")

LIMITS: dict[str, tuple[int, int]] = {
    "max_subnets": (1, 4_000_000),
    "max_flows": (64, 16_000_000),
    "prefix_v4": (0, 32),
    "prefix_v6": (0, 128),
    "sample_interval_ns": (0, RTT_GREATEST_NS),
    "max_age_ns": (1_000_000, 600_000_000_000),
    "scale": (SCALES[0], SCALES[-1]),
}


def possible_cpus() -> int:
    """Highest possible CPU number plus one (the kernel's nr_cpu_ids), which counters per CPU must have rows for.

    Raises EppingError if the kernel does not say.
    """
    try:
        ranges = _POSSIBLE.read_text().strip()
    except OSError as error:
        raise EppingError(f"cannot read {_POSSIBLE} ({error.strerror}): mount /sys; read-only is enough") from error
    return int(ranges.replace("-", ",").split(",")[-1]) + 1


def tick_ns() -> int:
    """Time between two ticks of the kernel's timer: the resolution of its coarse clocks."""
    return round(time.clock_getres(_CLOCK_MONOTONIC_COARSE) * 1e9)


@dataclass(frozen=True)
class EppingConfig:
    """Configuration of the kernel program. Raises EppingError for a value out of range.

    max_subnets         slots: combinations of subnet, interface, side and method that have a histogram of their own
    max_flows           TCP flow table entries
    prefix_v4           length of the IPv4 prefixes that are subnets, bits
    prefix_v6           length of the IPv6 prefixes that are subnets, bits
    sample_interval_ns  minimum time between RTT samples of a flow and direction, ns; 0 for all samples
    max_age_ns          maximum RTT, ns: a packet whose reply takes longer is not measured
    scale               scale of the exponential histograms: 2^scale buckets for each doubling
    methods             names of the methods that measure RTTs (docs/methods.md)
    tunnels             measure the packets inside GRE, VXLAN and IP-in-IP tunnels, not the tunnel's own packets
    hook                "tcx", "clsact" or "auto": TCX where the kernel has it (Linux 6.6), else clsact
    copies              recognize packets that are seen twice, at mirror ports and in captures
    events              report single RTTs and flow events in a ring buffer, for `otel-epping watch`
    packet_clock        take the time from the packets of a capture instead of the kernel's clock
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
    copies: bool = False
    events: bool = False
    packet_clock: bool = False

    def __post_init__(self) -> None:
        for name, (least, greatest) in LIMITS.items():
            value = getattr(self, name)
            if not least <= value <= greatest:
                raise EppingError(f"{name} is {value}: it must be from {least} to {greatest}")
        if self.hook not in HOOKS:
            raise EppingError(f"hook is {self.hook!r}: it must be one of {', '.join(HOOKS)}")
        methods.bits(self.methods)

    def defines(self) -> dict[str, int]:
        """Compile-time constants of `bpf/config.h`."""
        knobs = {
            name.upper(): int(getattr(self, name)) for name in (*LIMITS, "tunnels", "copies", "events", "packet_clock")
        }
        knobs["METHODS"] = methods.bits(self.methods)
        return knobs | {"BUCKETS": bucket_count(self.scale), "CPUS": possible_cpus(), "TICK_NS": tick_ns()}
