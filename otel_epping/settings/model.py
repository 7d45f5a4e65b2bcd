# SPDX-License-Identifier: Apache-2.0
"""Defines all settings of the agent in one class, Settings.

The flags, the variables, the keys of the settings file, its JSON schema and docs/settings.md are made from this class.
To add a setting, add a field to Settings. The names of the setting are derived from the name of the field: the field
`max_subnets` becomes the flag --max-subnets, the variable OTEL_EPPING_MAX_SUBNETS, and the key `max_subnets` in a file.
If the name of the field ends with _ns, this suffix is left out of the flag, the variable and the key.

Click converts the values, and chooses between flag, variable, file and default. No other library is used to check
values: pydantic would take an additional 9 MB of memory and 90 ms at the start, and msgspec would take an additional 1
MB of memory. The rules of pydantic and msgspec for checking values are different from the rules of Click.
"""

from dataclasses import dataclass, fields
from typing import Annotated

import click

from otel_epping.errors import EppingError
from otel_epping.kernel import methods
from otel_epping.kernel.attach.selection import Selection
from otel_epping.kernel.config import HOOKS, IDLE_TIMEOUT_NS, IDLE_TIMEOUTS_NS, LIMITS, EppingConfig
from otel_epping.networks.databases import Databases
from otel_epping.otel import metric_selection
from otel_epping.otel.export_settings import ExportSettings, check_attributes
from otel_epping.series.grouping import SUBNET, Grouping
from otel_epping.series.limits import RANGES, Limits
from otel_epping.settings import required_files
from otel_epping.settings.spec import ContradictionError, Spec
from otel_epping.settings.types import (
    EMBEDDED_IPV4,
    METHODS,
    METRICS,
    TAGS,
    Attributes,
    Duration,
    FilePath,
    GroupBy,
    Interfaces,
)

INTERFACE_SETTINGS = ("interface", "lan", "mirror")  # in the order of the fields of Selection
LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")

_KERNEL_DEFAULTS = EppingConfig()
_LIMIT_DEFAULTS = Limits()
_INTERVALS_NS = (10**6, 24 * 3600 * 10**9)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The values of all settings. Each value was converted from text by the type of its setting.

    Raises ContradictionError if the values of several settings contradict each other.
    """

    interface: Annotated[
        tuple[str, ...],
        Spec(
            Interfaces(),
            "Interface to watch: a name, a pattern ('eth*' or '/^veth/'), or auto, which selects all interfaces with a "
            "default route. May be given several times.",
            short="-i",
            reloadable=True,
        ),
    ] = ()
    lan: Annotated[
        tuple[str, ...],
        Spec(
            Interfaces(),
            "Like --interface, but for an interface that is connected to the LAN. The senders of the packets that this "
            "interface receives are internal hosts.",
            reloadable=True,
        ),
    ] = ()
    mirror: Annotated[
        tuple[str, ...],
        Spec(
            Interfaces(),
            "Like --interface, but for a mirror, SPAN or TAP port. Such a port receives both directions, and it is "
            "unknown which hosts are internal.",
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
            "TCP port of the health probes, which are /livez and /readyz over HTTP. If no port is set, the agent does "
            "not serve probes.",
            unset="none",
        ),
    ] = None
    health_address: Annotated[
        str,
        Spec(
            click.STRING,
            "Address of the health probes. In Kubernetes, use 0.0.0.0 or ::, because the kubelet connects to the "
            "address of the pod.",
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
            "Minimum time between two RTT samples of the same TCP flow and direction. 0: no minimum.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.sample_interval_ns
    max_age_ns: Annotated[
        int,
        Spec(
            Duration(*LIMITS["max_age_ns"]),
            "Maximum RTT. If the reply arrives later, the RTT sample has expired, and no RTT is measured.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.max_age_ns
    methods: Annotated[
        tuple[str, ...],
        Spec(METHODS, "Methods of RTT measurement, separated by commas.", kernel=True),
    ] = methods.ALL
    tunnels: Annotated[
        bool,
        Spec(
            click.BOOL,
            "Measure the packets inside GRE, VXLAN and IP-in-IP tunnels instead of the outer packets.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.tunnels
    hook: Annotated[
        str,
        Spec(
            click.Choice(HOOKS),
            "How the program is attached to an interface: by TCX (Linux 6.6 and newer) or by clsact filters. auto: by "
            "TCX if the kernel supports TCX, otherwise by clsact filters.",
            kernel=True,
            live_only=True,
        ),
    ] = _KERNEL_DEFAULTS.hook
    scale: Annotated[
        int,
        Spec(
            click.IntRange(*LIMITS["scale"]),
            "Scale of the exponential histograms. A histogram has 2^scale buckets per power of two. With scale 4, "
            "quantiles have an error of at most 2.2 %.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.scale
    max_subnets: Annotated[
        int,
        Spec(
            click.IntRange(*LIMITS["max_subnets"]),
            "Number of subnets for which there is room, if each subnet is seen on two interfaces. If the room is "
            "nearly used up, the slots of the quietest subnets are freed for other subnets.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.max_subnets
    max_flows: Annotated[
        int,
        Spec(
            click.IntRange(*LIMITS["max_flows"]),
            "Number of rows of the TCP flow table. If the number of flows is 75 % of the number of rows, about 2 % of "
            "the flows find no row. At 100 %, about 10 % of the flows find no row.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.max_flows
    idle_timeout_ns: Annotated[
        int,
        Spec(
            Duration(*IDLE_TIMEOUTS_NS),
            "If a subnet has no packets and no active TCP flow for this time, the slots of the subnet are freed for "
            "other subnets. The last counts of the subnet are exported first. 0: slots are only freed when the room is "
            "nearly used up.",
            reloadable=True,
        ),
    ] = IDLE_TIMEOUT_NS
    metrics: Annotated[
        tuple[str, ...],
        Spec(
            METRICS,
            "Groups of metrics to export, separated by commas. core: RTTs, bytes and packets by direction, "
            "retransmissions, flows, interfaces and the agent's own metrics. all: all metrics with all attributes.",
        ),
    ] = (metric_selection.CORE,)
    attributes: Annotated[
        dict[str, tuple[str, ...]] | None,
        Spec(
            Attributes(),
            "Attributes that the metrics of a group keep, for example rtt=subnet,side;traffic=subnet,side,direction. "
            "Points that differ only in other attributes are added up. Without the attribute interface, a forwarded "
            "packet is counted once for each watched interface.",
            unset="all attributes of the groups in metrics",
        ),
    ] = None
    max_series: Annotated[
        int,
        Spec(
            click.IntRange(0, RANGES["max_series"][1]),
            "Maximum number of subnets, named networks, groups and covering prefixes that get their own series. The "
            "busiest are selected. roll_up determines where all others are counted. 0: no limit except max_subnets.",
            reloadable=True,
        ),
    ] = _LIMIT_DEFAULTS.max_series or 0
    roll_up: Annotated[
        bool,
        Spec(
            click.BOOL,
            "Add the counts of each subnet that has no series of its own to a covering prefix (IPv4 /16, /8, /0; IPv6 "
            "/32, /16, /0) instead of the overflow point.",
            reloadable=True,
        ),
    ] = _LIMIT_DEFAULTS.roll_up
    min_samples: Annotated[
        int,
        Spec(
            click.IntRange(*RANGES["min_samples"]),
            "Minimum number of RTTs before a subnet gets its own series. Earlier counts of the subnet are added to the "
            "counts of other subnets, and stay in this sum.",
            reloadable=True,
        ),
    ] = _LIMIT_DEFAULTS.min_samples
    networks: Annotated[
        str | None,
        Spec(
            FilePath(),
            "File with the names and tags of networks: CSV with the header cidr,name and further columns, YAML, or "
            "ShapedDevices.csv of LibreQoS. Addresses outside of all named networks are counted in subnets. The agent "
            "reads the file again when it changes.",
            reloadable=True,
            unset="none",
        ),
    ] = None
    network_tags: Annotated[
        tuple[str, ...],
        Spec(TAGS, "Tags of the named networks to export as attributes, separated by commas."),
    ] = ()
    database: Annotated[
        tuple[str, ...],
        Spec(
            FilePath(),
            "Database in MaxMind format with AS numbers, AS organisations or countries, which are exported as "
            "attributes. The agent opens the database again when the file is replaced. May be given several times.",
        ),
    ] = ()
    group_by: Annotated[
        str,
        Spec(
            GroupBy(),
            "What a series stands for. subnet: each named network, and each subnet outside of the named networks. "
            "name: each named network; all other addresses are one group. asn, country: each AS number or country of "
            "the databases. A tag of the named networks, for example site: each value of the tag.",
        ),
    ] = SUBNET
    embedded_ipv4: Annotated[
        tuple[str, ...],
        Spec(
            EMBEDDED_IPV4,
            "IPv6 addresses that count for the IPv4 address inside them, separated by commas. nat64: addresses in "
            "64:ff9b::/96. mapped: addresses in ::ffff:0:0/96. Name other prefixes of a NAT64 in CIDR notation, for "
            "example 2001:db8:64::/96.",
            kernel=True,
        ),
    ] = _KERNEL_DEFAULTS.embedded_ipv4

    def __post_init__(self) -> None:
        try:
            _ = self.exported
        except EppingError as error:
            raise ContradictionError(str(error), ["metrics", "attributes"]) from None
        required_files.check(self.networks, self.network_tags, self.database, self.group_by)
        try:
            check_attributes(self.exported, self.group_by)
        except EppingError as error:
            raise ContradictionError(str(error), ["attributes", "group_by"]) from None

    @property
    def health_endpoint(self) -> tuple[str, int] | None:
        """Address and port of the health probes, or None if no port is set."""
        return (self.health_address, self.health_port) if self.health_port else None

    @property
    def selection(self) -> Selection:
        """The interfaces to watch."""
        return Selection(*(getattr(self, field) for field in INTERFACE_SETTINGS))

    @property
    def kernel(self) -> EppingConfig:
        """The configuration of the kernel program.

        If a mirror port is watched, the program detects duplicates (`copies`), because a mirror port may receive a
        packet twice.
        """
        values = {each.name: getattr(self, each.name) for each in fields(EppingConfig) if hasattr(self, each.name)}
        return EppingConfig(**values, copies=bool(self.mirror))

    @property
    def limits(self) -> Limits:
        """The limits on series."""
        return Limits(self.max_series or None, self.min_samples, self.roll_up)

    def export(self, databases: Databases | None) -> ExportSettings:
        """Returns the settings that decide what is exported. `databases` are the opened databases of `database`."""
        return ExportSettings(self.exported, self.limits, Grouping(self.group_by, self.network_tags, databases))

    @property
    def exported(self) -> metric_selection.MetricSelection:
        """The exported metrics, and the attributes of each metric."""
        return metric_selection.MetricSelection(self.metrics, self.attributes or {})
