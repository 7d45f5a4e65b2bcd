# SPDX-License-Identifier: Apache-2.0
"""The table of names, held against the documentation, the kernel program's enums and the structs it compiled to."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

from otel_epping import telemetry
from otel_epping.kernel import memory, methods
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig

ROOT = Path(__file__).resolve().parent.parent
MAPS_H = (ROOT / "bpf/maps.h").read_text()
# Values that have no enum of their own in the program, but are the rows of arrays: their order is the standard's.
ECN_BY_CODEPOINT = {0b00: "not_ect", 0b01: "ect_1", 0b10: "ect_0", 0b11: "ce"}


def enum(name: str) -> dict[str, int]:
    """The enumerators of an enum of bpf/maps.h, lower case and without prefix; one at the end that counts is left out.

    That one is the plural of the prefix: CLASSES of CLASS_, KINDS of KIND_.
    """
    body = re.search(rf"enum {name} {{(.*?)}}", MAPS_H, re.DOTALL)
    assert body, f"no enum {name}"
    values: dict[str, int] = {}
    for position, enumerator in enumerate(part.strip() for part in body[1].split(",")):
        label, _, value = enumerator.partition(" = ")
        if "_" in label:
            values[label.split("_", 1)[1].lower()] = int(value) if value else position
    return values


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (telemetry.SIDES, "side"),
        (methods.ALL, "method"),
        (telemetry.TRAFFIC_CLASSES, "traffic_class"),
        (telemetry.PACKET_KINDS, "packet_kind"),
    ],
)
def test_labels_are_the_enumerators_in_their_order(labels: tuple[str, ...], name: str) -> None:
    assert dict(zip(labels, range(len(labels)), strict=True)) == enum(name)


def test_families_are_those_of_the_program() -> None:
    assert {f"v{number}": number for number in telemetry.FAMILIES} == enum("family")
    assert telemetry.FAMILIES == {4: "ipv4", 6: "ipv6"}


def test_code_points_are_those_of_rfc_3168() -> None:
    assert dict(enumerate(telemetry.ECN_CODEPOINTS)) == ECN_BY_CODEPOINT


@pytest.fixture(scope="module")
def dtypes() -> dict[str, np.dtype[np.void]]:
    """Layouts of the compiled program's arrays."""
    with Collector(KernelConfig()) as collector:
        maps = collector.program.maps
        return {name: memory.Array(name, maps[name]).dtype for name in ("interface_counters", "traffic")}


@pytest.mark.parametrize("counter", telemetry.INTERFACE_COUNTERS, ids=lambda counter: counter.field)
def test_interface_counters_are_fields_of_the_compiled_struct(
    counter: telemetry.InterfaceCounter, dtypes: dict[str, np.dtype[np.void]]
) -> None:
    rows = np.zeros(1, dtypes["interface_counters"])
    values = rows
    for part in counter.field.split("."):
        assert part in (values.dtype.names or ())
        values = values[part]
    labels = counter.axis[1] if counter.axis else ("",)
    assert values.size == len(labels)
    assert values.dtype == np.uint64


def test_every_counter_of_the_program_is_exported(dtypes: dict[str, np.dtype[np.void]]) -> None:
    dtype = dtypes["interface_counters"]
    quantities = (dtype["received"].subdtype or (dtype["received"],))[0].names or ()
    fields = {name for name in dtype.names or () if name not in ("received", "transmitted", "unused")}
    fields |= {f"{way}.{quantity}" for way in ("received", "transmitted") for quantity in quantities}
    assert {counter.field for counter in telemetry.INTERFACE_COUNTERS} == fields


def test_subnet_counters_are_the_fields_of_a_tally(dtypes: dict[str, np.dtype[np.void]]) -> None:
    traffic = dtypes["traffic"]
    assert [name for name in traffic.names or () if name != "unused"] == list(telemetry.SUBNET_DIRECTIONS)
    for direction in telemetry.SUBNET_DIRECTIONS:
        base, shape = traffic[direction].subdtype or (None, ())
        assert base is not None
        assert base.names == ("packets", "bytes")
        assert shape == (len(telemetry.TRAFFIC_CLASSES),)
    assert [metric.unit for metric in telemetry.SUBNET_COUNTERS] == ["{packet}", "By"]


def test_an_axis_or_an_attribute_tells_the_counters_of_a_metric_apart() -> None:
    for metric in telemetry.METRICS:
        points = [
            (*counter.attributes.items(), (key, label))
            for counter in telemetry.INTERFACE_COUNTERS
            if counter.metric == metric
            for key, labels in [counter.axis or ("", ("",))]
            for label in labels
        ]
        assert len(points) == len(set(points)), metric.name


def test_every_attribute_of_a_point_is_in_the_metrics_row_and_explained() -> None:
    used = {key for metric in telemetry.METRICS for key in metric.keys}
    assert used | {telemetry.OVERFLOW} == set(telemetry.ATTRIBUTES)
    for counter in telemetry.INTERFACE_COUNTERS:
        keys = {telemetry.INTERFACE, *counter.attributes, *((counter.axis[0],) if counter.axis else ())}
        assert keys == set(counter.metric.keys), counter.field


def test_values_of_attributes_are_in_their_explanation() -> None:
    for key, labels in {
        telemetry.SIDE: telemetry.SIDES,
        telemetry.METHOD: methods.ALL,
        telemetry.NETWORK_TYPE: telemetry.FAMILIES.values(),
        telemetry.NETWORK_TRANSPORT: [method.transport for method in methods.METHODS],
        telemetry.SUBNET_DIRECTION: telemetry.SUBNET_DIRECTIONS,
        telemetry.TRAFFIC_CLASS: telemetry.TRAFFIC_CLASSES,
        telemetry.PACKET_KIND: telemetry.PACKET_KINDS,
        telemetry.ECN: telemetry.ECN_CODEPOINTS,
        telemetry.BOUND: telemetry.BOUNDS,
        telemetry.MAP: {
            c.attributes[telemetry.MAP] for c in telemetry.INTERFACE_COUNTERS if telemetry.MAP in c.attributes
        },
        telemetry.OUTCOME: {
            c.attributes[telemetry.OUTCOME] for c in telemetry.INTERFACE_COUNTERS if telemetry.OUTCOME in c.attributes
        },
    }.items():
        for label in labels:
            assert f"`{label}`" in telemetry.ATTRIBUTES[key]


def test_units_and_names_follow_the_conventions() -> None:
    names = [metric.name for metric in telemetry.METRICS]
    assert len(names) == len(set(names))
    for metric in telemetry.METRICS:
        # opentelemetry.io/docs/specs/semconv/general/metrics: UCUM, annotations in the singular, no unit in the name.
        assert re.fullmatch(r"s|By|\{[a-z]+[^s]\}", metric.unit), metric
        assert re.fullmatch(r"epping(\.[a-z]+)+", metric.name), metric
        assert not metric.name.endswith(("_total", ".seconds", ".bytes"))


def test_the_documentation_is_made_from_the_table() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == telemetry.markdown(), "run `make docs`"


def test_names_are_written_nowhere_else() -> None:
    names = {metric.name for metric in telemetry.METRICS} | set(telemetry.ATTRIBUTES)
    found = []
    for path in sorted((ROOT / "otel_epping").rglob("*.py")):
        if path.name == "telemetry.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and (node.value in names or re.match(r"epping\.(?!bpf\.c$)", node.value))
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value}")
    assert not found
