# SPDX-License-Identifier: Apache-2.0
"""Compares whole screens with the texts in `snapshots/`. `python -m tests.top.test_snapshots` writes the texts anew."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from otel_epping.history.columns import ColumnKey
from otel_epping.history.history import History
from otel_epping.history.line import UNANSWERED, Line
from otel_epping.otel import metric_table
from otel_epping.top.session import Session
from tests.support.histories import MS, SECOND, TIMESTAMP, octets, packets, slice_of
from tests.top.screen import Screen, run

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

FOLDER = Path(__file__).parent / "snapshots"
BEGIN_NS = 1_800_000_000 * SECOND
external = partial(Line, interface="wan0", side="external")
FULL = external(name="Tower Hill", as_number=64500, as_organization="Example Fibre", country="DE")
NETWORKS = [
    FULL,
    external(subnet="192.0.2.0/24", network_type="ipv4", as_number=64501, as_organization="Example Cloud"),
    external(subnet="2001:db8:1::/48", network_type="ipv6"),
    Line(subnet="10.1.0.0/24", network_type="ipv4", interface="wan0", side="internal"),
]
DELAYS_MS = (30, 12, 180, 0.2)
# Each screen: the size of the terminal, if it has only ASCII, and the keys.
SCREENS: dict[str, tuple[tuple[int, int], bool, list[str]]] = {
    "networks-80x24": ((80, 24), False, []),
    "networks-200x50": ((200, 50), False, []),
    "networks-ascii-80x24": ((80, 24), True, []),
    "heat-map-80x24": ((80, 24), False, ["2"]),
    "traffic-80x24": ((80, 24), False, ["3"]),
    "health-80x24": ((80, 24), False, ["4"]),
    "details-80x24": ((80, 24), False, ["enter"]),
    "help-80x24": ((80, 24), False, ["question_mark"]),
}


def history() -> History:
    """Return one minute, in the second half of which the first network has much traffic and long RTTs."""
    found = History()
    for second in range(60):
        is_busy = second >= 30
        counts: dict[tuple[Line, ColumnKey], int] = {}
        rtts_ns: dict[tuple[Line, str], list[int]] = {}
        for number, (line, delay_ms) in enumerate(zip(NETWORKS, DELAYS_MS, strict=True)):
            busy = 10 if is_busy and line is FULL else 1
            counts |= {(line, octets("from")): 90_000 * busy, (line, octets("to")): 9_000 * busy}
            counts |= {(line, packets("from")): 100 * busy, (line, packets("to", "tcp_other")): 25 * busy}
            extra_ms = 80 if busy > 1 else 0
            # The third network has fewer than 20 RTTs.
            samples = 5 + number if number != 2 else second % 6 == 0
            if samples:
                rtts_ns[line, TIMESTAMP] = [
                    round((delay_ms * (1 + each / 20) + extra_ms) * MS) for each in range(int(samples))
                ]
        counts[Line(UNANSWERED), packets("from")] = 3
        agent = dict.fromkeys((seen("tcp"), seen("udp")), 500.0)
        begin_ns = BEGIN_NS + second * SECOND
        found.add(slice_of(found.numbering, begin_ns, begin_ns + SECOND, counts, rtts_ns, agent=agent))
    return found


def seen(kind: str) -> ColumnKey:
    """Return the column of the packets of the interface."""
    return ColumnKey(metric_table.INTERFACE_PACKETS.name, (("direction", "receive"), ("kind", kind)))


def screen_of(name: str) -> str:
    """Return the text of a screen."""
    size, is_ascii, keys = SCREENS[name]
    texts: list[str] = []

    async def test(screen: Screen) -> None:
        await screen.shows("network", "Tower Hill")
        await screen.press(*keys)
        # A page is complete when its text no longer changes.
        text = ""
        while text != screen.text or "heat map appears" in text:
            text = screen.text
            await screen.pilot.pause(0.2)
        texts.append(text)

    run(test, Session(history()), size=size, is_ascii=is_ascii)
    return texts[0] + "\n"


@pytest.mark.parametrize("name", SCREENS)
def test_the_screen_is_the_same_as_in_the_snapshot(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert screen_of(name) == (FOLDER / f"{name}.txt").read_text()


if __name__ == "__main__":
    os.environ["TZ"] = "UTC"
    time.tzset()
    FOLDER.mkdir(exist_ok=True)
    for each in SCREENS:
        (FOLDER / f"{each}.txt").write_text(screen_of(each))
