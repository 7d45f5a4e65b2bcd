# SPDX-License-Identifier: Apache-2.0
"""Prints docs/settings.md from the table of settings: `python -m scripts.settings_page`."""

from otel_epping.settings.model import SETTINGS
from otel_epping.settings.schema import default_text
from otel_epping.settings.types import allowed

_HEAD = """# Settings

Made from the table in `otel_epping/settings/model.py` by `make docs`; edit there.

Each setting is a flag of `otel-epping run`, a variable and a key of a YAML file (`--config FILE`, or the variable
`OTEL_EPPING_CONFIG`). A flag goes before a variable, that before the file. A file is checked whole: a key that there is
not, a value that is not allowed, or a key twice is refused, with file and line; so is a variable with the prefix that
there is not. Variables that Kubernetes sets for a Service are ignored: one called `otel-epping-health` sets, for
example, `OTEL_EPPING_HEALTH_PORT=tcp://10.0.0.5:8080`. An error names the flag, the variable, or the file and line that
a value is from. `otel-epping config` takes the same flags and prints the settings that hold, each with where it is
from; `otel-epping config --schema` prints the JSON schema of the file.

Where metrics go, and how often, the standard `OTEL_*` variables say; they are not settings of ours, and have a page of
their own, [exporting.md](exporting.md).

Lists are YAML lists in a file, and separated by commas in a variable. Times are such as `100ms`, `2.5s` or `1m`; a bare
number is seconds.

Interfaces are given by name, by pattern (`eth*`, or a regular expression between slashes: `/^veth/`), or as `auto`:
those with a default route. Names and patterns also select by alternative names (`ip link property`). A name goes before
`auto`, that before a pattern, and among equals `mirror` before `lan` before `interface`. An interface that is named has
to be there when the agent starts. From then on interfaces are followed: one that appears is attached to, one that goes
away is detached from. Its series end when it has been gone for 5 seconds and each exporter has delivered all of its
counts; if it comes back under the same name until then, they go on. There are numbers for 1024 interfaces at a time. An
interface beyond them is counted without a name until the series of another one end.

A default route is a unicast route of IPv4 or IPv6 in the main table or in that of a VRF. Routes of half of all
addresses count too: `0.0.0.0/1` and `128.0.0.0/1`, and of IPv6 `2000::/3` or a half of it. Nexthop objects and groups
of them are followed as they change.

In a name, a byte that is not part of printable UTF-8 text is written `\\xNN`, in settings, labels and the log:
`caf\\xe9` is the name with the byte 0xe9. A pattern sees that byte as one character: `caf?`.

SIGHUP reads the file again, and puts into force what is marked below; of the rest it is logged that it needs a restart.
A file that is refused changes nothing. The bounds at the end of the table can be changed if one of them was set at the
start; the first one needs a restart, for without any, nothing is kept of what they go by. An agent that started without
a mirror port watches one that the file names later. But it does not recognize packets that the port shows twice, and
logs a warning.

| key | variable | flag | allowed | default | SIGHUP | |
|---|---|---|---|---|---|---|
"""


def markdown() -> str:
    """The text of docs/settings.md."""
    rows = []
    for setting in SETTINGS:
        flag = f"`{setting.row.short}`, `{setting.flag}`" if setting.row.short else f"`{setting.flag}`"
        cells = [f"`{setting.key}`", f"`{setting.variable}`", flag, allowed(setting.row.type)]
        cells += [default_text(setting) or "none", "yes" if setting.row.reload else "restart", setting.row.help]
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    print(markdown(), end="")
