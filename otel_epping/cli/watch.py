# SPDX-License-Identifier: Apache-2.0
"""otel-epping watch: prints each RTT when it is measured, and each flow when it opens or closes.

The kernel program writes each event to a ring buffer, and this command prints the events. If the reader of the output
is too slow, the ring buffer becomes full, and further events are lost. The kernel program counts the lost events, and
this command reports their number on standard error.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TextIO

import click

from otel_epping.events.formats import FORMATS, EventWriter
from otel_epping.events.idle_flows import IdleFlowCloser
from otel_epping.events.ring_buffer import EventReader
from otel_epping.kernel.attach import interface_monitor, interfaces
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.interfaces import Role
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import capabilities
from otel_epping.networks.pseudonyms import Pseudonyms, Show, unchanged
from otel_epping.process import descriptors
from otel_epping.process.signals import Stop
from otel_epping.settings.options import COMMAND, kernel_options, naming_source, option
from otel_epping.settings.types import Interfaces

# Maximum time to wait for events. A signal takes effect after at most 0.1 s.
_WAIT_S = 0.1
# Every second, the clock offset is updated, lost events are reported, and idle flows are closed.
_PERIOD_NS = 1_000_000_000


class WallClock:
    """Converts CLOCK_MONOTONIC, the clock of the kernel program, to Unix time.

    As in ePPing, the offset between CLOCK_MONOTONIC and Unix time is updated every second. So the Unix time is also
    correct after a change of the system time.
    """

    def __init__(self) -> None:
        self._offset_ns = 0
        self._updated_ns = 0

    def __call__(self, monotonic_ns: int) -> int:
        """Returns the Unix time, in ns, at which CLOCK_MONOTONIC had the value `monotonic_ns`."""
        now_ns = time.monotonic_ns()
        if not self._updated_ns or now_ns - self._updated_ns > _PERIOD_NS:
            self._offset_ns = time.time_ns() - now_ns
            self._updated_ns = now_ns
        return monotonic_ns + self._offset_ns


class _LossReport:
    """Reports the number of events that were lost because the ring buffer was full.

    While the command runs, each report contains only the events that were lost since the previous report. When the
    command ends, the total number of lost events is reported.
    """

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._reported = 0

    def report(self) -> None:
        lost = self._reader.lost
        if lost > self._reported:
            print(f"otel-epping: lost {lost - self._reported} events", file=sys.stderr)
            self._reported = lost

    def report_total(self) -> None:
        self.report()
        if self._reported:
            print(f"otel-epping: lost {self._reported} events in total: read the output faster", file=sys.stderr)


@click.command(context_settings=COMMAND)
@option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True,
              help="Interface to watch. May be given several times.")  # fmt: skip
@option("--mirror", envvar="OTEL_EPPING_MIRROR", type=Interfaces(), multiple=True,
              help="Like --interface, but for a mirror, SPAN or TAP port, which receives the packets of both "
                   "directions.")  # fmt: skip
@option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="Output format, as in ePPing.")
@option("--redact", is_flag=True, help="Print pseudonyms such as host-1 instead of addresses.")
@kernel_options
def watch(config: EppingConfig, interface: tuple[str, ...], mirror: tuple[str, ...], format: str, redact: bool) -> None:
    """Print each RTT, and each flow that opens or closes, until Ctrl-C."""
    roles = {}
    for name, role, texts in (("interface", Role.WAN, interface), ("mirror", Role.MIRROR, mirror)):
        if not texts:
            continue
        with naming_source(click.get_current_context(), [name]):
            found = interface_monitor.present(texts)
            for each in found:
                interfaces.find(each)
        roles.update(dict.fromkeys(found, role))
    if not roles:
        raise click.UsageError("Missing option '-i' / '--interface', or '--mirror'.")
    _print_events(roles, config, format, Pseudonyms() if redact else unchanged, sys.stdout)


def _print_events(roles: Mapping[str, Role], config: EppingConfig, format: str, show: Show, stream: TextIO) -> None:
    """Prints the events of the interfaces in `roles` to `stream`, until SIGINT or SIGTERM.

    Raises EppingError if the start fails, and OSError if writing to `stream` fails.
    """
    descriptors.raise_limit()
    stop = Stop("stopped at once; the last line of output may be incomplete")
    with EppingCollector(replace(config, events=True, copies=Role.MIRROR in roles.values())) as collector:
        # agent/run.py explains why CAP_NET_ADMIN is kept with clsact. otel-epping has only one thread at this point.
        if kept := capabilities.drop_capabilities({"CAP_NET_ADMIN"} if collector.attachments.hook == "clsact" else ()):
            print(f"otel-epping: {capabilities.describe(kept)}", file=sys.stderr)
        reader = EventReader(collector)
        idle_flows = IdleFlowCloser(collector, reader.dtype)
        losses = _LossReport(reader)
        for name, role in roles.items():
            collector.attachments.attach(name, role)
        monitor = HookMonitor(collector.attachments, collector.interface_packets)
        monitor.check()
        writer = EventWriter(format, stream, WallClock(), show)
        print(f"otel-epping: watching {', '.join(roles)}", file=sys.stderr)
        due_ns = 0
        while not stop.is_set():
            reader.wait(_WAIT_S)
            writer.write(reader.read())
            stream.flush()
            monitor.check()
            if time.monotonic_ns() > due_ns:
                due_ns = time.monotonic_ns() + _PERIOD_NS
                losses.report()
                writer.write(idle_flows.close_idle(time.monotonic_ns()))
        monitor.close()
        # The output is completed before the program is detached, because the kernel takes at least 10 ms to detach the
        # program from each interface.
        writer.write(reader.read())
        writer.close()
        stream.flush()
        losses.report_total()
