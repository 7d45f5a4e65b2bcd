# SPDX-License-Identifier: Apache-2.0
"""Every setting of the agent, in one table: flags, variables, the file, its schema and docs/settings.md come from it.

To add a setting, add a row. What it is called follows from its field: `max_subnets` is --max-subnets, the variable
OTEL_EPPING_MAX_SUBNETS, and `max_subnets` in a file; the unit of a field in ns is no part of it.

Click converts and ranks (flag, variable, file, default). A model by pydantic takes 9 MB and 90 ms more, one by msgspec
1 MB, and either checks by other rules than the flags do.
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
SELECTING = ("interface", "lan", "mirror")  # the settings that select interfaces, in the order of class Selection
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

_KERNEL = EppingConfig()
_LIMITS = Limits()
_INTERVALS_NS = (10**6, 24 * 3600 * 10**9)


class Row(NamedTuple):
    """What is known of a setting beside its name and default.

    short    a short flag
    kernel   a knob of the kernel program, which every command has that loads it; it is the same field of EppingConfig
    attaches it says how the program is put on interfaces, of which a capture has none
    reload   SIGHUP puts a new value of the file into force; all others need a restart
    unset    what holds while there is no value, where the default is None
    """

    type: click.ParamType[Any]
    help: str
    short: str = ""
    kernel: bool = False
    attaches: bool = False
    reload: bool = False
    unset: str = ""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of the agent. Values are as the types of their rows convert them.

    Raises EppingError for bounds that don't fit together.
    """

    interface: Annotated[
        tuple[str, ...],
        Row(
            Interfaces(),
            "Interface to watch: a name, a pattern such as 'eth*' or '/^veth/', or auto for those with a "
            "default route; may be given several times.",
            short="-i",
            reload=True,
        ),
    ] = ()
    lan: Annotated[
        tuple[str, ...],
        Row(
            Interfaces(),
            "The same for one that faces the LAN: what comes in through it is the internal side.",
            reload=True,
        ),
    ] = ()
    mirror: Annotated[
        tuple[str, ...],
        Row(
            Interfaces(),
            "The same for a mirror, SPAN or TAP port: both directions arrive the same way, and no side is known.",
            reload=True,
        ),
    ] = ()
    interval_ns: Annotated[
        int | None,
        Row(Duration(*_INTERVALS_NS), "Time between exports.", unset="OTEL_METRIC_EXPORT_INTERVAL, else 60s"),
    ] = None
    health_port: Annotated[
        int | None,
        Row(
            click.IntRange(1, 65535),
            "Port for health probes over HTTP: /livez and /readyz.",
            unset="none",
        ),
    ] = None
    health_address: Annotated[
        str,
        Row(
            click.STRING,
            "Address for health probes: 0.0.0.0 or :: where a kubelet asks at the pod's address.",
        ),
    ] = "127.0.0.1"
    log_format: Annotated[
        str, Row(click.Choice(LOG_FORMATS), "Lines of the log, on standard error: text, or JSON objects.")
    ] = "text"
    log_level: Annotated[str, Row(click.Choice(LOG_LEVELS), "Least level that is logged.", reload=True)] = "info"
    prefix_v4: Annotated[
        int, Row(click.IntRange(*LIMITS["prefix_v4"]), "Length of the IPv4 prefixes that are subnets.", kernel=True)
    ] = _KERNEL.prefix_v4
    prefix_v6: Annotated[
        int, Row(click.IntRange(*LIMITS["prefix_v6"]), "Length of the IPv6 prefixes that are subnets.", kernel=True)
    ] = _KERNEL.prefix_v6
    sample_interval_ns: Annotated[
        int,
        Row(
            Duration(*LIMITS["sample_interval_ns"]),
            "Least time between two round-trip times begun in one flow and direction; 0 for all.",
            kernel=True,
        ),
    ] = _KERNEL.sample_interval_ns
    max_age_ns: Annotated[
        int,
        Row(
            Duration(*LIMITS["max_age_ns"]),
            "Greatest round-trip time: what waits longer for its reply is given up.",
            kernel=True,
        ),
    ] = _KERNEL.max_age_ns
    methods: Annotated[tuple[str, ...], Row(Methods(), "Ways to measure, separated by commas.", kernel=True)] = (
        methods.ALL
    )
    tunnels: Annotated[
        bool,
        Row(click.BOOL, "Measure what is inside of GRE, VXLAN and IP-in-IP, and not the tunnel itself.", kernel=True),
    ] = _KERNEL.tunnels
    hook: Annotated[
        str,
        Row(
            click.Choice(HOOKS),
            "What holds the program on an interface: TCX links from Linux 6.6 on, clsact filters before.",
            kernel=True,
            attaches=True,
        ),
    ] = _KERNEL.hook
    scale: Annotated[
        int,
        Row(
            click.IntRange(*LIMITS["scale"]),
            "Scale of the histograms: 2^scale buckets per doubling. 4 is an error of 2.2 %.",
            kernel=True,
        ),
    ] = _KERNEL.scale
    max_subnets: Annotated[
        int,
        Row(
            click.IntRange(*LIMITS["max_subnets"]),
            "Subnets counted apart; what is beyond them is counted together.",
            kernel=True,
        ),
    ] = _KERNEL.max_subnets
    max_flows: Annotated[
        int,
        Row(
            click.IntRange(*LIMITS["max_flows"]),
            "Places for TCP flows, of which some three quarters can be taken.",
            kernel=True,
        ),
    ] = _KERNEL.max_flows
    idle_timeout_ns: Annotated[
        int,
        Row(
            Duration(*IDLE_TIMEOUTS_NS),
            "A subnet of which nothing was seen for so long, and that has no active TCP flow, makes room for others; "
            "its last counts are exported still. 0 for never.",
            reload=True,
        ),
    ] = 0
    max_series: Annotated[
        int | None,
        Row(
            click.IntRange(*RANGES["max_series"]),
            "Subnets exported apart, the busiest; all others together, on the overflow point.",
            reload=True,
            unset="as many as max_subnets",
        ),
    ] = _LIMITS.max_series
    roll_up: Annotated[
        bool,
        Row(
            click.BOOL,
            "With max_series: all others in prefixes that cover them (/16, /8, /0; IPv6 /32, /16, /0), rather than on "
            "the overflow point.",
            reload=True,
        ),
    ] = _LIMITS.roll_up
    min_samples: Annotated[
        int,
        Row(
            click.IntRange(*RANGES["min_samples"]),
            "Round-trip times that a subnet must have to be exported apart. Until then it is with all others, and what "
            "was counted there stays there.",
            reload=True,
        ),
    ] = _LIMITS.min_samples

    def __post_init__(self) -> None:
        _ = self.limits

    @property
    def health_at(self) -> tuple[str, int] | None:
        """Address and port for health probes, if there are to be any."""
        return (self.health_address, self.health_port) if self.health_port else None

    @property
    def selection(self) -> Selection:
        """Which interfaces are to be watched."""
        return Selection(*(getattr(self, field) for field in SELECTING))

    @property
    def kernel(self) -> EppingConfig:
        """The knobs of the kernel program. A mirror port may show a packet twice."""
        knobs = {setting.field: getattr(self, setting.field) for setting in SETTINGS if setting.row.kernel}
        return EppingConfig(**knobs, copies=bool(self.mirror))

    @property
    def limits(self) -> Limits:
        """Limits on the series that are exported."""
        return Limits(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Limits)})

    @property
    def is_bounded(self) -> bool:
        """Whether slots are reused or series limited."""
        return bool(self.idle_timeout_ns) or self.limits.any


class Setting(NamedTuple):
    """A row of the table, with the names that follow from its field."""

    field: str
    row: Row
    default: Any

    @property
    def key(self) -> str:
        """What it is called in a file."""
        return self.field.removesuffix("_ns")

    @property
    def flag(self) -> str:
        """What it is called on the command line."""
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        """What it is called in the environment."""
        return PREFIX + self.key.upper()

    @property
    def several(self) -> bool:
        """Whether a flag may be given several times, for several values."""
        return isinstance(self.default, tuple) and not isinstance(self.row.type, Methods)


def _settings() -> Iterator[Setting]:
    hints = get_type_hints(Settings, include_extras=True)
    for field in dataclasses.fields(Settings):
        (row,) = hints[field.name].__metadata__
        yield Setting(field.name, row, field.default)


SETTINGS = tuple(_settings())
BOUNDS = {"idle_timeout_ns"} | {field.name for field in dataclasses.fields(Limits)}
BY_KEY = {setting.key: setting for setting in SETTINGS}
