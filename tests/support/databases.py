# SPDX-License-Identifier: Apache-2.0
"""Writes databases in MaxMind format for tests."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmdb_writer import MMDBWriter, SearchTreeNode
from netaddr import IPNetwork, IPSet

GOOGLE = {"autonomous_system_number": 15169, "autonomous_system_organization": "Google LLC"}
CLOUDFLARE = {"autonomous_system_number": 13335, "autonomous_system_organization": "Cloudflare, Inc."}


class _Writer(MMDBWriter):
    """Writes a database with a given time of build, as Unix time. None: now."""

    built_s: int | None = None

    def _build_meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = super()._build_meta()
        return meta if self.built_s is None else meta | {"build_epoch": self.built_s}


def write_database(
    path: Path,
    records: Mapping[str, Any],
    kind: str = "Test",
    ip_version: int = 6,
    built_s: int | None = None,
    aliases: bool = False,
) -> str:
    """Writes a database with a record for each prefix, and returns its path. The longest prefix decides.

    With `aliases`, the prefixes of Teredo, 6to4 and IPv4-mapped addresses are aliases of the IPv4 addresses, as in
    MaxMind's databases.
    """
    writer = _Writer(ip_version, kind, ipv4_compatible=ip_version == 6, int_type="u32")
    writer.built_s = built_s
    for prefix in sorted(map(IPNetwork, records), key=lambda prefix: int(prefix.prefixlen)):
        writer.insert_network(IPSet([prefix]), records[str(prefix)])
    if aliases:
        ipv4 = _node(writer, "::/96")
        for prefix in ("2001::/32", "2002::/16", "::ffff:0:0/96"):
            length = IPNetwork(prefix).prefixlen
            _node(writer, f"{prefix.partition('/')[0]}/{length - 1}")[_bits(prefix)[-1]] = ipv4
    writer.to_db_file(str(path))
    return str(path)


def _bits(prefix: str) -> list[int]:
    network = IPNetwork(prefix)
    return [int(bit) for bit in f"{int(network.value):0128b}"[: network.prefixlen]]


def _node(writer: MMDBWriter, prefix: str) -> SearchTreeNode:
    node = writer.tree
    for bit in _bits(prefix):
        child = node.get_or_create(bit)
        assert isinstance(child, SearchTreeNode)
        node = child
    return node
