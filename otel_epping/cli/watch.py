# SPDX-License-Identifier: Apache-2.0
"""otel-epping watch: prints each round-trip time, and each flow that opens or closes, as it happens.

A program that is told to report events puts them into a ring buffer, and this prints what comes out of it, until it is
told to stop. Whoever reads our output too slowly holds us up; the ring then fills, and the program counts what it has
no room for. That is told on standard error, never in silence.
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
from otel_epping.process import descriptors
from otel_epping.process.stop import Stop
from otel_epping.settings.options import COMMAND, kernel_options, naming_source, option
from otel_epping.settings.types import Interfaces

# How long a signal may have to wait for its effect.
_WAIT_S = 0.1
_EVERY_NS = 1_000_000_000


class WallClock:
    """CLOCK_MONOTONIC, by which the program tells the time, as Unix time in ns.

    As ePPing does it: the difference of the two clocks is looked up anew every second, so that it follows a clock that
    is set.
    """

    def __init__(self) -> None:
        self._difference_ns = 0
        self._looked_ns = 0

    def __call__(self, monotonic_ns: int) -> int:
        """Unix time in ns."""
        now_ns = time.monotonic_ns()
        if not self._looked_ns or now_ns - self._looked_ns > _EVERY_NS:
            self._difference_ns = time.time_ns() - now_ns
            self._looked_ns = now_ns
        return monotonic_ns + self._difference_ns


class _Losses:
    """Tells what the ring had no room for: what is new, and all of it at the end."""

    def __init__(self, reader: EventReader) -> None:
        self._reader = reader
        self._told = 0

    def tell(self) -> None:
        lost = self._reader.lost
        if lost > self._told:
            print(f"otel-epping: lost {lost - self._told} events", file=sys.stderr)
            self._told = lost

    def tell_total(self) -> None:
        self.tell()
        if self._told:
            print(f"otel-epping: lost {self._told} events in all: is the output read fast enough?", file=sys.stderr)


@click.command(context_settings=COMMAND)
@option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True,
              help="Interface to watch; may be given several times.")  # fmt: skip
@option("--mirror", envvar="OTEL_EPPING_MIRROR", type=Interfaces(), multiple=True,
              help="The same for a mirror, SPAN or TAP port, where both directions arrive the same way.")  # fmt: skip
@option("--format", type=click.Choice(FORMATS), default=FORMATS[0], help="As ePPing prints it.")
@kernel_options
def watch(config: EppingConfig, interface: tuple[str, ...], mirror: tuple[str, ...], format: str) -> None:
    """Print each round-trip time, and each flow that opens or closes, until Ctrl-C."""
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
    _print_events(roles, config, format, sys.stdout)


def _print_events(roles: Mapping[str, Role], config: EppingConfig, format: str, stream: TextIO) -> None:
    """Prints the events of interfaces, of which `roles` has the names, to `stream` until SIGINT or SIGTERM.

    Raises EppingError for whatever keeps it from beginning, OSError if `stream` cannot be written.
    """
    descriptors.raise_limit()
    stop = Stop("stopped at once; the output may be torn")
    with EppingCollector(replace(config, events=True, copies=Role.MIRROR in roles.values())) as collector:
        # As in agent.py; nothing else of ours runs here that could have any.
        if kept := capabilities.drop_capabilities({"CAP_NET_ADMIN"} if collector.attachments.hook == "clsact" else ()):
            print(f"otel-epping: {capabilities.describe(kept)}", file=sys.stderr)
        reader = EventReader(collector)
        idle_flows = IdleFlowCloser(collector, reader.dtype)
        losses = _Losses(reader)
        for name, role in roles.items():
            collector.attachments.attach(name, role)
        monitor = HookMonitor(collector.attachments, collector.interface_packets)
        monitor.check()
        writer = EventWriter(format, stream, WallClock())
        print(f"otel-epping: watching {', '.join(roles)}", file=sys.stderr)
        due_ns = 0
        while not stop.is_set():
            reader.wait(_WAIT_S)
            writer.write(reader.read())
            stream.flush()
            monitor.check()
            if time.monotonic_ns() > due_ns:
                due_ns = time.monotonic_ns() + _EVERY_NS
                losses.tell()
                writer.write(idle_flows.close_idle(time.monotonic_ns()))
        monitor.close()
        # Interfaces are detached after the output has ended: that takes the kernel 10 ms and more for each.
        writer.write(reader.read())
        writer.close()
        stream.flush()
        losses.tell_total()
