# SPDX-License-Identifier: Apache-2.0
"""Prints docs/settings.md from the table of settings: `python -m scripts.settings_page`."""

from otel_epping.settings.definitions import DEFINITIONS
from otel_epping.settings.schema import default_text
from otel_epping.settings.types import allowed

_HEAD = """# Settings

`make docs` generates this page from `otel_epping/settings/model.py`. Edit that file instead of this page.

Each setting is a flag of `otel-epping run`, an environment variable, and a key of a YAML file. The flag `--config FILE`
or the variable `OTEL_EPPING_CONFIG` names the YAML file. A flag takes precedence over a variable, and a variable takes
precedence over the file. `otel-epping config` has the same flags as `otel-epping run`. `otel-epping config` prints the
settings in effect and the source of each setting. `otel-epping config --schema` prints the JSON schema of the settings
file.

The agent checks the whole settings file. The agent reports an error if a key is unknown or repeated, or if a value is
not allowed. The error message names the file and the line. An unknown variable with the prefix `OTEL_EPPING_` is an
error too. The message for a wrong value names the source of the value: the flag, the variable, or the file and the
line. The agent ignores variables that Kubernetes sets for a Service. For example, Kubernetes sets
`OTEL_EPPING_HEALTH_PORT=tcp://10.0.0.5:8080` for a Service with the name `otel-epping-health`.

The standard `OTEL_*` variables set the destination of the metrics and the export interval. [exporting.md](exporting.md)
describes these variables.

In a file, write a list as a YAML list. In a variable, separate the items of a list by commas. The setting `attributes`
is a mapping of groups to lists in a file (`attributes: {rtt: [subnet, side]}`), and a text such as
`rtt=subnet,side;traffic=side,direction` elsewhere. Write a time with a unit
(`100ms`, `2.5s`, `1m`). A number without a unit is a time in seconds.

## Interfaces

You can select interfaces by name, by pattern, or by `auto`. A pattern is a shell pattern (`eth*`) or a regular
expression between slashes (`/^veth/`). `auto` selects all interfaces with a default route. Names and patterns are also
compared with the alternative names of an interface (`ip link property`). If several settings select the same interface,
a name takes precedence over `auto`, and `auto` takes precedence over a pattern. If two settings select the interface in
the same way, `mirror` takes precedence over `lan`, and `lan` takes precedence over `interface`.

An interface that is selected by name must exist when the agent starts. After the start, the agent attaches to selected
interfaces when they appear, and detaches from interfaces that disappear. The series of an interface are ended when the
interface has been absent for 5 seconds and each exporter has delivered all counts of the interface. If an interface
with the same name appears before the series end, the series continue. At most 1024 interfaces have their own counters
at the same time. Until the series of another interface end, all further interfaces share one set of counters. The
shared counters are exported without an interface name.

A default route is a unicast route of IPv4 or IPv6 in the main table or in the table of a VRF. A route to half of all
addresses counts as a default route too. For IPv4 the routes to half of all addresses are `0.0.0.0/1` and `128.0.0.0/1`.
For IPv6 the routes to half of all addresses are `2000::/3` and each half of `2000::/3`. The agent also detects changes
of nexthop objects and of nexthop groups.

If a byte in the name of an interface is not part of printable UTF-8 text, settings, metric attributes and the log show
this byte as `\\xNN`. For example, `caf\\xe9` stands for a name with the byte 0xe9. In a pattern, a byte that is shown
as `\\xNN` counts as one character, so `caf?` matches `caf\\xe9`.

## Reload

On SIGHUP the agent reads the settings file again. The agent applies changes of the settings that have `yes` in the
column `SIGHUP` below. If other settings have changed, the agent logs that these settings need a restart. If the file
has an error, no setting changes. The agent also reads the file of names again. The agent reads this file each
time the file changes, too ([networks.md](networks.md#reloading)). The setting `networks` can name another file after
SIGHUP. A restart is necessary if `networks` had no value and gets one, or loses its value. If an agent was started
without a mirror port, it can watch a mirror port that is later added to the settings file. On this port, the agent does
not detect duplicate packets, and it logs a warning.

## All settings

| key | variable | flag | allowed | default | SIGHUP | description |
|---|---|---|---|---|---|---|
"""


def markdown() -> str:
    """Returns the text of docs/settings.md."""
    rows = []
    for each in DEFINITIONS:
        spec = each.spec
        flag = f"`{spec.short}`, `{each.flag}`" if spec.short else f"`{each.flag}`"
        cells = [f"`{each.key}`", f"`{each.variable}`", flag, allowed(spec.type)]
        cells += [default_text(each) or "none", "yes" if spec.reloadable else "restart", spec.help]
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(markdown(), end="")
