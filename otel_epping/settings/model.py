# SPDX-License-Identifier: Apache-2.0
"""All settings of the agent, in one class. Flags, variables, the file, its schema and docs/settings.md follow from it.

To add a setting, add a field to Settings. The names of a setting follow from its field: `max_subnets` is --max-subnets,
the variable OTEL_EPPING_MAX_SUBNETS, and `max_subnets` in a file. The suffix _ns of a field is not part of the names.

Click converts values, and chooses between flag, variable, file and default. A model of pydantic would take 9 MB and
90 ms more, a model of msgspec 1 MB. Both would check by other rules than the flags.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, get_type_hints

import click

from otel_epping.kernel import methods
from otel_epping.kernel.attach.selection import Selection
from otel_epping.kernel.config import HOOKS, IDLE_TIMEOUTS_NS, LIMITS, EppingConfig
from otel_epping.series.limits import RANGES, Limits
from otel_epping.settings.types import Duration, Interfaces, Methods

PREFIX = "OTEL_EPPING_"
INTERFACE_SETTINGS = ("interface", "lan", "mirror")  # in the order of the fields of Selection
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

_KERNEL_DEFAULTS = EppingConfig()
_LIMIT_DEFAULTS = Limits()
_INTERVALS_NS = (10**6, 24 * 3600 * 10**9)


class Spec(NamedTuple):
    """The properties of a setting, except its names and its default.

    short       short flag, or ""
    kernel      the setting is a field of EppingConfig; all commands that load the kernel program have it
    live_only   the setting is about interfaces, so commands that read captures do not have it
    reloadable  SIGHUP applies a new value of the file; other settings need a restart
    unset       text for the default None
    """

    type: click.ParamType[Any]
    help: str
    short: str = ""
    kernel: bool = False
    live_only: bool = False
    reloadable: bool = False
    unset: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of the settings, as converted by the types in their specs.

    Raises EppingError for limits that contradict each other.
    """

    interface: Annotated[
        tuple[str, ...],
        Spec(
            Interfaces(),
            "Interface to watch: a name, a pattern ('eth*' or '/^veth/'), or auto for all interfaces with a default "
            "route. May be given several times.",
            short="-i",
            reloadable=True,
        ),
    ] = ()
    lan: Annotated[
        tuple[str, ...],
        Spec(
            Interfaces(),
            "Like --interface, for an interface that faces the LAN: hosts whose packets it receives are internal.",
            reloadable=True,
        ),
    ] = ()
    mirror: Annotated[
        tuple[str, ...],
        Spec(
            Interfaces(),
            "Like --interface, for a mirror, SPAN or TAP port: it receives both directions, and sides are unknown.",
            reloadable=True,
        ),
    ] = ()
    interval_ns: Annotated[
        int | None,
        Spec(Duration(*_INTERVALS_NS), "Time between exports.", unset="OTEL_METRIC_EXPORT_INTERVAL, or 60s"),
    ] = None
    health_port: Annotated[
        int | None,
        Spec(
            click.IntRange(1, 65535),
            "TCP port of the health probes, /livez and /readyz over HTTP. Without a port there are no probes.",
            unset="none",
        ),
    ] = None
    health_address: Annotated[
        str,
        Spec(
            click.STRING,
            "Address of the health probes. For a kubelet, use 0.0.0.0 or ::, because it connects to the pod's address.",
        ),
    ] = "127.0.0.1"
    log_format: Annotated[
        str, Spec(click.Choice(LOG_FORMATS), "Format of the log on standard error: lines of text, or JSON objects.")
    ] = "text"
    log_level: Annotated[
        str, Spec(click.Choice(LOG_LEVELS), "Minimum level of the messages that are logged.", reloadable=True)
    ] = "info"
    prefix_v4: Annotated[
        int, Spec(click.IntRange(*LIMITS["prefix_v4"]), "Prefix length of IPv4 subnets.", kernel=True)
    ] = _KERNEL_DEFAULTS.prefix_v4
    prefix_v6: Annotated[
        int, Spec(click.IntRange(*LIMITS["prefix_v6"]), "Prefix length of IPv6 subnets.", kernel=True)
    ] = _KERNEL_DEFAULTS.prefix_v6
    sample_interval_ns: Annotated[
        int,
        Spec(
            Duration(*LIMITS["sample_interval_ns"]),
            "Minimum time between RTT samples of a TCP flow and direction. 0: no minimum.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.sample_interval_ns
    max_age_ns: Annotated[
        int,
        Spec(
            Duration(*LIMITS["max_age_ns"]),
            "Maximum RTT. An RTT sample that waits longer for its reply expires and is not measured.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.max_age_ns
    methods: Annotated[
        tuple[str, ...], Spec(Methods(), "Methods of RTT measurement, separated by commas.", kernel=True)
    ] = methods.ALL
    tunnels: Annotated[
        bool,
        Spec(
            click.BOOL,
            "Measure the packets inside GRE, VXLAN and IP-in-IP tunnels instead of the tunnels.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.tunnels
    hook: Annotated[
        str,
        Spec(
            click.Choice(HOOKS),
            "How the program is attached to an interface: TCX (Linux 6.6 and newer) or clsact filters. auto: TCX if "
            "the kernel supports it.",
            kernel=True,
            live_only=True,
        ),
    ] = _KERNEL_DEFAULTS.hook
    scale: Annotated[
        int,
        Spec(
            click.IntRange(*LIMITS["scale"]),
            "Scale of the exponential histograms: 2^scale buckets per power of two. Scale 4 gives errors of at most "
            "2.2 %.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.scale
    max_subnets: Annotated[
        int,
        Spec(
            click.IntRange(*LIMITS["max_subnets"]),
            "Slots for counts. A subnet takes one for each interface, side and method. If no slot is free, packets are "
            "counted on the overflow point.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.max_subnets
    max_flows: Annotated[
        int,
        Spec(
            click.IntRange(*LIMITS["max_flows"]),
            "Rows of the TCP flow table. About 2 % of the flows find no row if there are three quarters as many flows "
            "as rows, and 10 % if there are as many.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.max_flows
    idle_timeout_ns: Annotated[
        int,
        Spec(
            Duration(*IDLE_TIMEOUTS_NS),
            "The slots of a subnet are freed for other subnets after this time without packets and without an active "
            "TCP flow. Its last counts are exported. 0: never.",
            reloadable=True,
        ),
    ] = 0
    max_series: Annotated[
        int | None,
        Spec(
            click.IntRange(*RANGES["max_series"]),
            "How many of the busiest subnets get their own series. The rest are summed on the overflow point.",
            reloadable=True,
            unset="same as max_subnets",
        ),
    ] = _LIMIT_DEFAULTS.max_series
    roll_up: Annotated[
        bool,
        Spec(
            click.BOOL,
            "With max_series: sum the rest in covering prefixes (/16, /8, /0; IPv6 /32, /16, /0) instead of on the "
            "overflow point.",
            reloadable=True,
        ),
    ] = _LIMIT_DEFAULTS.roll_up
    min_samples: Annotated[
        int,
        Spec(
            click.IntRange(*RANGES["min_samples"]),
            "Minimum number of RTTs before a subnet gets its own series. Until then it is summed with the rest, and "
            "these counts stay there.",
            reloadable=True,
        ),
    ] = _LIMIT_DEFAULTS.min_samples

    def __post_init__(self) -> None:
        _ = self.limits

    @property
    def health_endpoint(self) -> tuple[str, int] | None:
        """Address and port of the health probes; None without probes."""
        return (self.health_address, self.health_port) if self.health_port else None

    @property
    def selection(self) -> Selection:
        """The interfaces to watch."""
        return Selection(*(getattr(self, field) for field in INTERFACE_SETTINGS))

    @property
    def kernel(self) -> EppingConfig:
        """The configuration of the kernel program. A mirror port may show a packet twice, so that is checked there."""
        values = {each.field: getattr(self, each.field) for each in DEFINITIONS if each.spec.kernel}
        return EppingConfig(**values, copies=bool(self.mirror))

    @property
    def limits(self) -> Limits:
        """The limits on series."""
        return Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})

    @property
    def is_bounded(self) -> bool:
        """Whether an idle timeout or a limit on series is set."""
        return bool(self.idle_timeout_ns) or self.limits.any


class Definition(NamedTuple):
    """A setting: the field of Settings with its spec, its default and the names that follow from it."""

    field: str
    spec: Spec
    default: Any

    @property
    def key(self) -> str:
        """The name in a file."""
        return self.field.removesuffix("_ns")

    @property
    def flag(self) -> str:
        """The name on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return PREFIX + self.key.upper()

    @property
    def multiple(self) -> bool:
        """Whether the flag may be given several times, for several values."""
        return isinstance(self.default, tuple) and not isinstance(self.spec.type, Methods)


def _definitions() -> Iterator[Definition]:
    hints = get_type_hints(Settings, include_extras=True)
    for field in dataclasses.fields(Settings):
        (spec,) = hints[field.name].__metadata__
        yield Definition(field.name, spec, field.default)


DEFINITIONS = tuple(_definitions())
LIMIT_SETTINGS = {"idle_timeout_ns"} | {field.name for field in dataclasses.fields(Limits)}
BY_KEY = {each.key: each for each in DEFINITIONS}
