# SPDX-License-Identifier: Apache-2.0
"""Floods an interface with SYNs from forged addresses. The slots of these subnets are reclaimed without an export."""

import socket
import struct
import time
from collections.abc import Callable

import pytest

from bench import programs
from otel_epping.kernel import libbpf
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.read import claims
from tests.long.fuzz import builders
from tests.support.command import Agent
from tests.support.hosts import Hosts

_MAX_SUBNETS = 1024
# NEWCOMER_NS + GRACE_NS in kernel/read/slots.py is 11 s. The agent checks once per second whether NEWCOMER_NS or
# GRACE_NS has passed.
_RECLAIMED_S = 15.0


def flood(hosts: Hosts, name: str) -> None:
    """Send a SYN from each of 4,000 forged addresses in different subnets to the namespace `here`."""
    with hosts.there.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as end:
        end.bind((name, 0))
        for number in range(4000):
            segment = builders.tcp((1024, 443), 1, 0, 0x02, b"", b"")
            source = bytes((11 + number % 16, number // 16, 1, 1))
            end.send(builders.link((), 4) + builders.ip(source, bytes((10, 77, 0, 1)), 6, segment))


def wait_until_free(in_use: Callable[[int], int]) -> None:
    """Check that the flood has taken slots, and that all these slots are free again after at most _RECLAIMED_S.

    Given a row of the program's table `claims`, `in_use` returns how many slots or newcomers are in use.
    """
    began_s = time.monotonic()
    # Newcomers may have a quarter of all slots (bpf/subnet.h).
    assert in_use(claims.NEWCOMERS) == pytest.approx(EppingConfig(max_subnets=_MAX_SUBNETS).max_slots / 4, rel=0.02)
    while in_use(claims.SLOTS):
        assert time.monotonic() - began_s < _RECLAIMED_S, f"{in_use(claims.SLOTS)} slots are still in use"
        time.sleep(0.1)
    assert in_use(claims.NEWCOMERS) == 0


def test_an_agent_reclaims_slots_of_forged_addresses_without_an_export(
    hosts: Hosts, start: Callable[..., Agent]
) -> None:
    name = hosts.join(0)
    agent = start(
        *("-i", name, "--interval", "1h", "--max-subnets", str(_MAX_SUBNETS)),
        namespace=hosts.here,
        OTEL_METRICS_EXPORTER="console",
    )
    with hosts.here.entered():
        program = programs.attached_program(socket.if_nametoindex(name), "ingress")
    assert program
    table = programs.maps_of(program)["claims"]

    def in_use(row: int) -> int:
        record = libbpf.map_lookup(table, row.to_bytes(4, "little"), 16)
        assert record
        claimed, released = struct.unpack_from("=II", record)
        return int((claimed - released) % 2**32)

    flood(hosts, name)
    wait_until_free(in_use)
    assert agent.stop() == 0


def test_a_collector_reclaims_slots_of_forged_addresses_without_a_reading(hosts: Hosts) -> None:
    name = hosts.join(0)
    with EppingCollector(EppingConfig(max_subnets=_MAX_SUBNETS, max_flows=64)) as collector:
        with hosts.here.entered():
            collector.attach(name)
        reader = collector.reader()
        flood(hosts, name)
        names = {claims.SLOTS: "slots", claims.NEWCOMERS: "newcomers"}
        wait_until_free(lambda row: collector.slots.usage()[names[row]])
        assert reader.read().unanswered == pytest.approx(4001, rel=0.1)
