# SPDX-License-Identifier: Apache-2.0
"""The environment variables that EppingInstrumentor reads, each with a description of the setting.

opentelemetry-instrument has an option for each of these variables (entry point `opentelemetry_environment_variables`):
`opentelemetry-instrument --epping_interface eth0 python app.py`. docs/settings.md has the allowed values and the
defaults.
"""

OTEL_EPPING_CONFIG = "OTEL_EPPING_CONFIG"
"""Path of a YAML file with settings. The other OTEL_EPPING_* variables override the settings in this file."""

OTEL_EPPING_INTERFACE = "OTEL_EPPING_INTERFACE"
"""Interfaces to watch, comma-separated.

Names, patterns such as `eth*`, or `auto` (all interfaces with a default route) are allowed.
"""

OTEL_EPPING_LAN = "OTEL_EPPING_LAN"
"""Watched interfaces that face the local network; syntax as in OTEL_EPPING_INTERFACE."""

OTEL_EPPING_MIRROR = "OTEL_EPPING_MIRROR"
"""Watched interfaces that are connected to mirror, SPAN or TAP ports; syntax as in OTEL_EPPING_INTERFACE."""

OTEL_EPPING_PREFIX_V4 = "OTEL_EPPING_PREFIX_V4"
"""Prefix length of the IPv4 subnets."""

OTEL_EPPING_PREFIX_V6 = "OTEL_EPPING_PREFIX_V6"
"""Prefix length of the IPv6 subnets."""

OTEL_EPPING_SAMPLE_INTERVAL = "OTEL_EPPING_SAMPLE_INTERVAL"
"""Minimum time between two RTT samples in one direction of a flow."""

OTEL_EPPING_MAX_AGE = "OTEL_EPPING_MAX_AGE"
"""Maximum RTT. A packet whose reply takes longer than the maximum RTT is not measured."""

OTEL_EPPING_METHODS = "OTEL_EPPING_METHODS"
"""Methods that measure RTTs, comma-separated; docs/methods.md describes each."""

OTEL_EPPING_TUNNELS = "OTEL_EPPING_TUNNELS"
"""Whether to measure the packets inside GRE, VXLAN and IP-in-IP tunnels."""

OTEL_EPPING_HOOK = "OTEL_EPPING_HOOK"
"""The hook to which the eBPF program is attached: `tcx`, `clsact` or `auto`."""

OTEL_EPPING_SCALE = "OTEL_EPPING_SCALE"
"""Scale of the exponential histograms."""

OTEL_EPPING_MAX_SUBNETS = "OTEL_EPPING_MAX_SUBNETS"
"""Number of slots for subnets in the kernel."""

OTEL_EPPING_MAX_FLOWS = "OTEL_EPPING_MAX_FLOWS"
"""Number of TCP flow table entries in the kernel."""

OTEL_EPPING_IDLE_TIMEOUT = "OTEL_EPPING_IDLE_TIMEOUT"
"""Idle timeout: a subnet's slots are freed after this time without packets; 0: slots are never freed."""

OTEL_EPPING_METRICS = "OTEL_EPPING_METRICS"
"""Groups of metrics to export, comma-separated: `core`, `all`, or groups of docs/metrics.md."""

OTEL_EPPING_ATTRIBUTES = "OTEL_EPPING_ATTRIBUTES"
"""Attributes that the metrics of a group keep, for example `rtt=subnet,side;traffic=subnet,side,direction`."""

OTEL_EPPING_MAX_SERIES = "OTEL_EPPING_MAX_SERIES"
"""Maximum number of subnets that are exported individually; the busiest subnets are chosen. 0: no limit."""

OTEL_EPPING_ROLL_UP = "OTEL_EPPING_ROLL_UP"
"""Whether subnets that are not exported individually are merged into covering prefixes, not into the overflow point."""

OTEL_EPPING_MIN_SAMPLES = "OTEL_EPPING_MIN_SAMPLES"
"""Number of RTT samples that a subnet must have before it is exported individually."""

OTEL_EPPING_NETWORKS = "OTEL_EPPING_NETWORKS"
"""File with the names and tags of networks: CSV, YAML, or ShapedDevices.csv of LibreQoS; docs/networks.md."""

OTEL_EPPING_NETWORK_TAGS = "OTEL_EPPING_NETWORK_TAGS"
"""Tags of the named networks to export as attributes, comma-separated."""

OTEL_EPPING_DATABASE = "OTEL_EPPING_DATABASE"
"""Databases in MaxMind format with AS numbers, AS organisations or countries, comma-separated."""

OTEL_EPPING_GROUP_BY = "OTEL_EPPING_GROUP_BY"
"""What a series stands for: `subnet`, `name`, `asn`, `country`, or a tag of the named networks."""

OTEL_EPPING_EMBEDDED_IPV4 = "OTEL_EPPING_EMBEDDED_IPV4"
"""Kinds of IPv6 addresses that count for the IPv4 address inside them, comma-separated, for example `nat64`."""
