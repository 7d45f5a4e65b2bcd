# SPDX-License-Identifier: Apache-2.0
"""CPU share, memory and speed of `otel-epping top` with the default settings.

The pseudo-terminal has 200 columns and 50 rows.

Every 2 s, each subnet receives a segment and replies with a segment. The segments and replies are real packets that
pass through the interface (active_subnets.py). The time between two readings is 2 s or more. So each subnet has new
counts and new RTTs in each reading. The histograms contain as many RTTs as after a day of traffic (fill_maps.py).

cpu         user and system time of all threads, in % of a core, while no key is pressed
reading     time between two readings. `top` increases this time to limit the CPU share
redraw      CPU time of the main thread for each reading. The main thread draws the screen; another thread reads the
            counts and computes the numbers
key         time from a key to the last byte of the new screen, with readings in parallel. The keys sort, scroll, change
            the tab, edit and use the filter, and reset the table
"""

import threading
import time
from statistics import median

from bench import active_subnets
from bench.active_subnets import SubnetTraffic
from bench.programs import Contender
from bench.report import Heading, Result, Table, progress
from bench.top_terminal import TopTerminal
from bench.veth_pair import VethPair
from otel_epping.kernel.config import EppingConfig

_SIZES = (1_000, 10_000)
_PERIOD_S, _MEASURED_S, _SETTLE_S, _START_S = 2.0, 60.0, 15.0, 30.0
# Two readings are at least this time apart.
_SAME_READING_S = 0.5
_SORT_AND_TABS = (b"s", b"S", b"i", b"\x1b[B", b"\x1b[6~", b"2", b"1", b"3", b"1", b"4", b"1")
_KEYS = (*_SORT_AND_TABS, b"/", b"n", b">", b"5", b"\r", b"r")
_BETWEEN_KEYS_S = 0.3


def run(others: list[Contender], tiny: bool = False) -> Result:
    """Measures `top` with 1,000 and 10,000 active subnets. Other programs are not measured."""
    sizes, settle_s, measured_s = ((50,), 1.0, 3.0) if tiny else (_SIZES, _SETTLE_S, _MEASURED_S)
    columns = [Heading("active subnets", ",d"), Heading("cpu, % of a core", ".2f"), Heading("reading, s", ".1f")]
    columns += [Heading("redraw, ms", ".1f"), Heading("key, ms", ".0f"), Heading("slowest key, ms", ".0f")]
    table = Table("otel-epping top, default settings", [*columns, Heading("resident MB", ".1f")])
    layouts = active_subnets.map_layouts(EppingConfig())
    figures: dict[str, float] = {}
    for subnets in sizes:
        progress(f"top_usage: {subnets:,} subnets")
        with VethPair() as veth, TopTerminal(veth) as top:
            top.wait_until(top.program, _START_S, "it is attached to both hooks")
            top.wait_until(top.is_painted, _START_S, "the screen is painted")
            traffic, stop = SubnetTraffic(veth), threading.Event()
            active_subnets.activate(top, traffic, subnets, layouts, EppingConfig.scale)
            sending = threading.Thread(target=_send, args=(traffic, subnets - 1, stop))
            sending.start()
            try:
                time.sleep(settle_s)
                cpu, reading_s, redraw_ms = _idle(top, measured_s)
                keys_ms = [1e3 * _press(top, key) for key in (_KEYS[:4] if tiny else 3 * _KEYS)]
                memory_mb = top.memory_mb()
            finally:
                stop.set()
                sending.join()
        table.add(subnets, cpu, reading_s, redraw_ms, median(keys_ms), max(keys_ms), memory_mb)
        figures |= {
            f"top_usage.{subnets}_percent": cpu,
            f"top_usage.{subnets}_redraw_ms": redraw_ms,
            f"top_usage.{subnets}_reading_s": reading_s,
            f"top_usage.{subnets}_key_ms": median(keys_ms),
            f"top_usage.{subnets}_slowest_key_ms": max(keys_ms),
            f"top_usage.{subnets}_mb": memory_mb,
        }
    return Result([table], figures)


def _send(traffic: SubnetTraffic, servers: int, stop: threading.Event) -> None:
    while not stop.wait(_PERIOD_S):
        traffic.send(servers)


def _idle(top: TopTerminal, seconds: float) -> tuple[float, float, float]:
    """Returns the CPU share in %, the time between two readings in s, and the CPU time of a redraw in ms."""
    cpu_s, main_s, began_s = sum(top.cpu_s()), top.main_thread_cpu_s(), time.monotonic()
    time.sleep(seconds)
    took_s = time.monotonic() - began_s
    cpu_s, main_s = sum(top.cpu_s()) - cpu_s, top.main_thread_cpu_s() - main_s
    begins_s = [burst.begin_s for burst in top.bursts if burst.begin_s >= began_s]
    readings = sum(
        after - before >= _SAME_READING_S for before, after in zip([began_s, *begins_s], begins_s, strict=False)
    )
    return 100 * cpu_s / took_s, took_s / max(readings, 1), 1e3 * main_s / max(readings, 1)


def _press(top: TopTerminal, key: bytes) -> float:
    time.sleep(_BETWEEN_KEYS_S)
    return top.press(key)
