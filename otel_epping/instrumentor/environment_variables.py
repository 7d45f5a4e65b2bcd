# SPDX-License-Identifier: Apache-2.0
"""The environment variables that EppingInstrumentor reads, each with what it sets.

opentelemetry-instrument makes an option of each (entry point `opentelemetry_environment_variables`):
`opentelemetry-instrument --epping_interface eth0 python app.py`. docs/settings.md has the allowed values and the
defaults.
"""

OTEL_EPPING_CONFIG = "OTEL_EPPING_CONFIG"
"""Path of a YAML file of settings. A variable overrides the file."""

OTEL_EPPING_INTERFACE = "OTEL_EPPING_INTERFACE"
"""Interfaces to watch: names, patterns such as `eth*`, or `auto` for those with a default route; comma-separated."""

OTEL_EPPING_LAN = "OTEL_EPPING_LAN"
"""The same for interfaces that face the local network."""

OTEL_EPPING_MIRROR = "OTEL_EPPING_MIRROR"
"""The same for mirror, SPAN or TAP ports."""

OTEL_EPPING_PREFIX_V4 = "OTEL_EPPING_PREFIX_V4"
"""Length of the IPv4 prefixes that are subnets."""

OTEL_EPPING_PREFIX_V6 = "OTEL_EPPING_PREFIX_V6"
"""Length of the IPv6 prefixes that are subnets."""

OTEL_EPPING_SAMPLE_INTERVAL = "OTEL_EPPING_SAMPLE_INTERVAL"
"""Minimum time between RTT samples of a flow and direction."""

OTEL_EPPING_MAX_AGE = "OTEL_EPPING_MAX_AGE"
"""Maximum RTT. A packet whose reply takes longer is not measured."""

OTEL_EPPING_METHODS = "OTEL_EPPING_METHODS"
"""Methods that measure RTTs, comma-separated; docs/methods.md describes each."""

OTEL_EPPING_TUNNELS = "OTEL_EPPING_TUNNELS"
"""Whether to measure the packets inside GRE, VXLAN and IP-in-IP tunnels."""

OTEL_EPPING_HOOK = "OTEL_EPPING_HOOK"
"""How the program is attached: `tcx`, `clsact` or `auto`."""

OTEL_EPPING_SCALE = "OTEL_EPPING_SCALE"
"""Scale of the exponential histograms."""

OTEL_EPPING_MAX_SUBNETS = "OTEL_EPPING_MAX_SUBNETS"
"""Number of slots for subnets in the kernel."""

OTEL_EPPING_MAX_FLOWS = "OTEL_EPPING_MAX_FLOWS"
"""Number of TCP flow table entries in the kernel."""

OTEL_EPPING_IDLE_TIMEOUT = "OTEL_EPPING_IDLE_TIMEOUT"
"""Time without packets after which a subnet gives its slots back; 0 for never."""

OTEL_EPPING_MAX_SERIES = "OTEL_EPPING_MAX_SERIES"
"""How many of the busiest subnets are exported individually."""

OTEL_EPPING_ROLL_UP = "OTEL_EPPING_ROLL_UP"
"""Whether all other subnets are exported as covering prefixes instead of on the overflow point."""

OTEL_EPPING_MIN_SAMPLES = "OTEL_EPPING_MIN_SAMPLES"
"""RTT samples that a subnet must have before it is exported individually."""
