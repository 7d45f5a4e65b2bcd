# SPDX-License-Identifier: Apache-2.0
"""Prints docs/settings.md from the table of settings: `python -m scripts.settings_page`."""

from otel_epping.settings.model import DEFINITIONS
from otel_epping.settings.schema import default_text
from otel_epping.settings.types import allowed

_HEAD = """# Settings

Made from `otel_epping/settings/model.py` by `make docs`; edit there.

Each setting is a flag of `otel-epping run`, an environment variable, and a key of a YAML file (`--config FILE`, or the
variable `OTEL_EPPING_CONFIG`). A flag takes precedence over a variable, and a variable over the file.
`otel-epping config` takes the same flags, and prints the settings in effect with the source of each.
`otel-epping config --schema` prints the JSON schema of the file.

The agent checks the whole file. An unknown key, a value that is not allowed, or a repeated key is an error that names
the file and the line. An unknown variable with the prefix `OTEL_EPPING_` is an error too. An error in a value names the
flag, the variable, or the file and line that the value is from. Variables that Kubernetes sets for a Service are
ignored. For example, a Service named `otel-epping-health` sets `OTEL_EPPING_HEALTH_PORT=tcp://10.0.0.5:8080`.

The standard `OTEL_*` variables set where metrics are sent, and how often; [exporting.md](exporting.md) describes them.

Lists are YAML lists in a file, and are separated by commas in a variable. Times have a unit (`100ms`, `2.5s`, `1m`); a
number without a unit is in seconds.

## Interfaces

An interface is selected by name, by pattern (`eth*`, or a regular expression between slashes: `/^veth/`), or by `auto`,
which selects all interfaces with a default route. Names and patterns are compared with alternative names (`ip link
property`) too. If several settings select an interface, a name takes precedence over `auto`, and `auto` over a pattern;
after that, `mirror` takes precedence over `lan`, and `lan` over `interface`.

An interface that is selected by name must exist when the agent starts. From then on the agent attaches to selected
interfaces when they appear, and detaches when they disappear. The series of an interface end when it has been gone for
5 seconds and each exporter has delivered all of its counts. If an interface of the same name appears before that, the
series continue. At most 1024 interfaces have counters of their own at a time. Further interfaces are counted together,
without a name, until the series of another interface end.

A default route is a unicast route of IPv4 or IPv6 in the main table or in the table of a VRF. Routes to half of all
addresses count too: `0.0.0.0/1`, `128.0.0.0/1`, and for IPv6 `2000::/3` or half of it. The agent follows changes of
nexthop objects and of their groups.

In settings, metric attributes and the log, a byte of a name that is not part of printable UTF-8 text is written as
`\\xNN`: `caf\\xe9` is the name with the byte 0xe9. For a pattern, that byte is one character: `caf?`.

## Reload

On SIGHUP the agent reads the file again. It applies the settings that are marked `yes` below, and logs the changed
settings that need a restart. If the file has an error, nothing changes. `idle_timeout`, `max_series`, `roll_up` and
`min_samples` can be changed if at least one of them was set at the start. Otherwise they need a restart, because
without them the agent does not keep the counts that they need. An agent that started without a mirror port can watch
one that is added to the file, but does not detect packets that the port shows twice, and logs a warning.

## All settings

| key | variable | flag | allowed | default | SIGHUP | description |
|---|---|---|---|---|---|---|
"""


def markdown() -> str:
    """The text of docs/settings.md."""
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
