# SPDX-License-Identifier: Apache-2.0
"""Reads the circuits of LibreQoS: ShapedDevices.csv, and the levels of network.json.

The rules are those of LibreQoS 2.2: src/rust/lqos_config/src/shaped_devices/, src/rust/lqos_config/src/network_json.rs,
and loadSubscriberCircuits() in src/LibreQoS.py. The columns are found by their names, so files of all versions since
1.3 can be read.
"""

import logging
from collections import Counter
from typing import NamedTuple

from otel_epping.errors import EppingError
from otel_epping.networks.builder import NetworksBuilder
from otel_epping.networks.csv_file import Row, rows
from otel_epping.networks.line_errors import LineError, quoted
from otel_epping.networks.network import Networks
from otel_epping.networks.network_json import Levels, Tree, readable
from otel_epping.networks.prefix_text import packed, unpacked

_log = logging.getLogger(__name__)

_TAGS = ("circuit_id", "parent_node", "plan")

# A circuit with this parent node has no parent node.
_NO_PARENT = "none"


# The example file of LibreQoS 2.2 has the header of version 2.2, and lines with the 13 columns of version 2.0.
# Version 2.2 has two more columns after the first five columns.
_OLD_WIDTH = 13
_NEW_COLUMNS = {"parentnodeid": 5, "anchornodeid": 6}


class _Circuit(NamedTuple):
    """A circuit, and the line with its first device."""

    line: int
    name: str
    parent: str
    parent_id: str
    plan: str


def _normalized(header: str) -> str:
    """Returns the form in which LibreQoS compares the headers of columns."""
    return "".join(each for each in header.lower() if each.isascii() and each.isalnum()).removesuffix("mbps")


def is_header(fields: list[str]) -> bool:
    """Returns true if these fields are the header of ShapedDevices.csv."""
    names = {_normalized(field) for field in fields}
    return "circuitid" in names and not names.isdisjoint({"ipv4", "ipv6"})


def _rate(text: str) -> str:
    """Returns a rate in Mbit/s without needless zeros, or "" if the text is not a rate."""
    try:
        return f"{float(text):.2f}".rstrip("0").rstrip(".") if float(text) < 1e9 else ""
    except ValueError:
        return ""


def _plan(download: str, upload: str) -> str:
    rates = [_rate(download), _rate(upload)]
    return f"{'/'.join(rates)} Mbps" if all(rates) else ""


class _Devices:
    """The devices of a file with the header `header`.

    circuits  the circuits, by circuit ID, in the order of the file
    prefixes  packed prefix -> the ID of its circuit, and the line of its device
    moved     a text about each prefix that has an earlier line, with another circuit
    """

    def __init__(self, header: list[str]) -> None:
        self.circuits: dict[str, _Circuit] = {}
        self.prefixes: dict[bytes, tuple[str, int]] = {}
        self.moved: list[str] = []
        self._columns = {_normalized(field): index for index, field in enumerate(header)}
        self._width = 1 + max(self._columns.get(rate, 0) for rate in ("downloadmax", "uploadmax"))

    def add(self, row: Row) -> None:
        """Adds a device. If the device is invalid, raises LineError."""
        row = self._complete(row)
        line = row.first_line
        circuit_id = self._field(row, "circuitid")
        if not circuit_id:
            raise LineError("the Circuit ID is missing: add it, LibreQoS needs it too")
        circuit = self._circuit(row, circuit_id)
        first = self.circuits.setdefault(circuit_id, circuit)
        if first.parent and first.parent != circuit.parent:
            raise LineError(
                f"the circuit {quoted(circuit_id)} has the Parent Node {quoted(circuit.parent)} here, and "
                f"{quoted(first.parent)} in line {first.line}: use one Parent Node for all devices of a circuit"
            )
        for text in self._addresses(row):
            prefix = packed(text, host_bits=True)
            old_id, old_line = self.prefixes.get(prefix, (circuit_id, line))
            self.prefixes[prefix] = circuit_id, line
            if old_id != circuit_id:
                self.moved.append(f"line {line}: {unpacked(prefix)} is also in line {old_line}")

    def _complete(self, row: Row) -> Row:
        """Returns a row with all columns that LibreQoS needs. If columns are missing, raises LineError."""
        if len(row.fields) >= self._width:
            return row
        if len(row.fields) == _OLD_WIDTH and _NEW_COLUMNS.items() <= self._columns.items():
            converted = row._replace(fields=[*row.fields[:5], "", "", *row.fields[5:]])
            if self._addresses(converted):
                return converted
        cause = f"the line has {len(row.fields)} columns, and LibreQoS needs {self._width}"
        raise LineError(f"{cause}: write the line completely, and close all quotes")

    def _addresses(self, row: Row) -> list[str]:
        texts = f"{self._field(row, 'ipv4')},{self._field(row, 'ipv6')}".split(",")
        return [text for text in texts if text.strip()]

    def _field(self, row: Row, column: str) -> str:
        index = self._columns.get(column, len(row.fields))
        return row.fields[index].strip() if index < len(row.fields) else ""

    def _circuit(self, row: Row, circuit_id: str) -> _Circuit:
        parent = readable(self._field(row, "parentnode"))
        return _Circuit(
            row.first_line,
            readable(self._field(row, "circuitname")) or circuit_id,
            "" if parent == _NO_PARENT else parent,
            self._field(row, "parentnodeid"),
            _plan(self._field(row, "downloadmax"), self._field(row, "uploadmax")),
        )


def read(path: str, text: str, tree: Tree | None) -> Networks:
    """Returns a network for each circuit that has addresses. `tree` is the tree of network.json, or None.

    The name of the network is the name of the circuit. If several circuits have the same name, the ID of the circuit
    follows each of these names in parentheses.

    Raises EppingError with the file, the line, the cause and the cure for each line that is invalid.
    """
    builder = NetworksBuilder(path, _TAGS if tree is None else (*_TAGS, *Levels._fields))
    lines = rows(path, text, strict=False)
    devices = _Devices(next(lines).fields)
    for row in lines:
        try:
            devices.add(row)
        except LineError as error:
            builder.errors.add(row.first_line, error)
    builder.errors.check()
    if not devices.prefixes:
        raise EppingError(f"{path}: no circuit has an address: fill in the columns IPv4 and IPv6")
    if devices.moved:
        _log.warning(
            "%s: %s, in another circuit: the last line counts, as in LibreQoS. Prefixes in several circuits: %s",
            path,
            devices.moved[0],
            f"{len(devices.moved):,}",
        )
    names = Counter(circuit.name for circuit in devices.circuits.values())
    for prefix, (circuit_id, line) in devices.prefixes.items():
        circuit = devices.circuits[circuit_id]
        name = circuit.name if names[circuit.name] == 1 else f"{circuit.name} ({circuit_id})"
        levels = () if tree is None else tree.levels(circuit.parent_id, circuit.parent)
        try:
            builder.add(line, prefix, (name, circuit_id, circuit.parent, circuit.plan, *levels))
        except LineError as error:
            builder.errors.add(line, error)
    return builder.build()
