# SPDX-License-Identifier: Apache-2.0
"""Empties the program's flow table."""

import mmap

from otel_epping.kernel import map_array
from otel_epping.kernel.program import Map


def forget_flows(maps: dict[str, Map]) -> None:
    """Empty the flow table, and the table of recent packets if the program has one."""
    for name in {"flows", "flow_sets", "recent_packets"} & set(maps):
        size = map_array.map_info(maps[name].fd)
        with mmap.mmap(maps[name].fd, size["value_size"] * size["max_entries"]) as pages:
            pages[:] = bytes(len(pages))
