# SPDX-License-Identifier: Apache-2.0
"""A program in which all counters are above 0, so that an exporter exports each metric."""

import struct
from collections.abc import Iterator

import numpy as np
import pytest

from otel_epping.kernel import libbpf
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.map_array import map_info
from otel_epping.kernel.read.directions import Directions, Flows
from tests.support.prog_test_run import MS, SECOND, Bench


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """A bench in which a subnet has an RTT, and all counters of the program are above 0."""
    bench = Bench(EppingConfig(packet_clock=True, max_subnets=64, max_flows=64, sample_interval_ns=0))
    bench.collector.change_idle_timeout(3600 * SECOND)
    flow = bench.flow().begun()
    flow.client(MS, 1001)
    flow.server(2 * MS, 1, 1001)
    for name in ("interface_counters", "traffic", "flow_counters"):
        fd = bench.collector.program.maps[name].fd
        info = map_info(fd)
        ones = np.ones(info["value_size"] // 4, np.uint32).view(bench.array(name).dtype)
        if name == "flow_counters":
            ones["opened"] <<= 1  # a flow that left the table without a close has ended in silence
        for row in range(info["max_entries"]):
            libbpf.map_update(fd, struct.pack("=I", row), ones.tobytes())
    (identifier,) = (number for number, name in bench.collector.attachments.names.items() if name == "lo")
    flows = Flows(*range(1, 1 + len(Flows._fields)))
    monkeypatch.setattr(Directions, "flows", property(lambda _: {identifier: flows}))
    monkeypatch.setitem(bench.collector.attachments.kernel_packets, "lo", [1, 1])
    yield bench
    bench.close()
