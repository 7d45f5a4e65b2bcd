# SPDX-License-Identifier: Apache-2.0
"""Loads the kernel program, drops all capabilities, and then performs each operation that an agent performs. Prints a
line for each operation.

kernel/load/test_capabilities.py runs this script as the user `nobody`. The last step tries to write to the counts,
which are mapped read-only.
"""

import ctypes
import sys

import numpy as np

from otel_epping.events.idle_flows import IdleFlowCloser
from otel_epping.events.ring_buffer import EventReader
from otel_epping.kernel import libbpf, map_array
from otel_epping.kernel.attach.hook_monitor import HookMonitor
from otel_epping.kernel.attach.tcx import TcxLink
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import capabilities


def main(interface: str) -> None:
    """Watch an interface that is created later. The caller writes a line to standard input when the interface
    exists."""
    collector = EppingCollector(EppingConfig(events=True))
    reader = collector.reader()
    capabilities.drop()
    print("dropped", flush=True)
    input()
    collector.attachments.attach(interface)
    print("attached", flush=True)
    input()
    reading = reader.read()
    print("packets", int(reading.interfaces[1]["received"]["packets"].sum()))
    print("flows", reading.flows)
    print(
        "weighed",
        sum(collector.kernel_bytes.values()) > 0 and min((collector.verified_instructions or {}).values()) > 0,
    )
    libbpf.map_update(collector.program.maps["free_slots"].fd, None, np.uint32(1).tobytes())
    events = EventReader(collector)
    print("events", len(events.read()), events.lost)
    watched = collector.program.maps["event_flows"]
    key, value = map_array.dtype_of(watched.key_layout or {}), map_array.dtype_of(watched.layout or {})
    print("watched", sum(len(keys) for keys, _ in libbpf.map_batches(watched.fd, key, value)))
    IdleFlowCloser(collector, events.dtype).close_idle(2**62)  # a time so late that all flows are idle and are deleted
    print("silent", sum(len(keys) for keys, _ in libbpf.map_batches(watched.fd, key, value)))
    collector.attachments.detach_all()
    collector.attachments.attach(interface)
    print("attached again")
    monitor = HookMonitor(collector.attachments, collector.interface_packets)
    for *_, hook in collector.attachments.hooks():
        assert isinstance(hook, TcxLink)
        hook.move_to_front()
        print("moved", hook.is_attached())
        libbpf.link_detach(hook._fd)
        print("taken away", not hook.is_attached())
    monitor.check()
    print("attached by the monitor", *(hook.is_attached() for *_, hook in collector.attachments.hooks()))
    for refused in (libbpf.load_noop, EppingCollector):
        try:
            refused()
        except Exception as error:
            print("refused", error)
    rows = map_array.Array("histograms", collector.program.maps["histograms"]).rows(0, 1)
    print("writing", flush=True)
    ctypes.memset(rows.ctypes.data, 1, 8)
    print("written")


main(sys.argv[1])
