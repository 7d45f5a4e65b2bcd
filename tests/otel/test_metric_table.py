# SPDX-License-Identifier: Apache-2.0
"""Compares the table of metrics with the documentation, with the program's enums, and with its compiled structs."""

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from otel_epping.kernel import methods
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.reading import FAMILY_NAMED
from otel_epping.otel import metric_table, semconv
from otel_epping.otel.columns import Columns
from otel_epping.otel.counters import INTERFACE_COUNTERS, SUBNET_COUNTERS
from scripts import metrics_page
from tests.support.metrics import ALL_METRICS

pytestmark = pytest.mark.parallel


ROOT = Path(__file__).resolve().parents[2]
MAPS_H = (ROOT / "bpf/maps.h").read_text()
METHODS_H = (ROOT / "bpf/methods.h").read_text()
# The program has no enum for the ECN values. The program uses the ECN values as indexes of an array, in the order of
# the standard.
ECN_BY_CODEPOINT = {0b00: "not_ect", 0b01: "ect_1", 0b10: "ect_0", 0b11: "ce"}


def enum(name: str) -> dict[str, int]:
    """Return the enumerators of an enum of bpf/maps.h, in lower case and without their prefix.

    The last enumerator is left out, because its value is the number of the other enumerators. The name of the last
    enumerator is the plural of the prefix: CLASSES for the prefix CLASS_.
    """
    if name == "method":  # in bpf/maps.h, the macro table of methods defines this enum
        return {method.lower(): number for number, method in enumerate(re.findall(r"ROW\(METHOD_(\w+),", METHODS_H))}
    body = re.search(rf"enum {name} {{(.*?)}}", MAPS_H, re.DOTALL)
    assert body, f"no enum {name}"
    values: dict[str, int] = {}
    for position, enumerator in enumerate(part.strip() for part in body[1].split(",")):
        label, _, value = enumerator.partition(" = ")
        if "_" in label:
            values[label.split("_", 1)[1].lower()] = int(value) if value else position
    return values


@pytest.mark.unit
@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (semconv.SIDES, "side"),
        (methods.ALL, "method"),
        (semconv.TRAFFIC_CLASSES, "traffic_class"),
        (semconv.PACKET_KINDS, "packet_kind"),
        (semconv.FLOW_OPENINGS, "opening"),
        (semconv.FLOW_CLOSINGS, "closing"),
    ],
)
def test_labels_are_the_enumerators_in_their_order(labels: tuple[str, ...], name: str) -> None:
    assert dict(zip(labels, range(len(labels)), strict=True)) == enum(name)


@pytest.mark.unit
def test_families_are_those_of_the_program() -> None:
    assert {"named": FAMILY_NAMED} | {f"v{number}": number for number in semconv.FAMILIES} == enum("family")
    assert semconv.FAMILIES == {4: "ipv4", 6: "ipv6"}


@pytest.mark.unit
def test_code_points_are_those_of_rfc_3168() -> None:
    assert dict(enumerate(semconv.ECN_CODEPOINTS)) == ECN_BY_CODEPOINT


@pytest.fixture(scope="module")
def dtypes() -> dict[str, np.dtype[Any]]:
    """The numpy record types of the arrays in the compiled program."""
    with EppingCollector(EppingConfig()) as collector:
        reader = collector.reader()
        return {"subnet": reader.counters_dtype, "interface": reader.interfaces_dtype}


TABLES = {"subnet": SUBNET_COUNTERS, "interface": INTERFACE_COUNTERS}
COUNTERS = [*SUBNET_COUNTERS, *INTERFACE_COUNTERS]


@pytest.mark.parametrize("table", TABLES)
def test_each_counter_that_is_read_is_one_series(table: str, dtypes: dict[str, np.dtype[Any]]) -> None:
    """If labels and fields do not match, the constructor of Columns raises."""
    columns = Columns(TABLES[table], dtypes[table], ALL_METRICS.exported)
    assert len(columns.sums.starts) == len(columns.sums.columns) == len(columns.labels) - 1, "no columns are merged"
    series = columns.sums.columns.tolist()
    assert len(series) == len(set(series))
    unused = dtypes[table]["unused"].itemsize // 8 if "unused" in (dtypes[table].names or ()) else 0
    assert set(series) == set(range(dtypes[table].itemsize // 8 - unused)), "only the columns at the end are unused"


@pytest.mark.unit
def test_an_axis_or_an_attribute_distinguishes_the_counters_of_a_metric() -> None:
    for metric in metric_table.METRICS:
        points = [
            (*counter.attributes.items(), (key, label))
            for counter in COUNTERS
            if counter.metric == metric
            for key, labels in [counter.axis or ("", ("",))]
            for label in labels
        ]
        assert len(points) == len(set(points)), metric.name


@pytest.mark.unit
def test_every_attribute_of_a_point_is_in_the_tables() -> None:
    used = {key for metric in metric_table.METRICS for key in metric.keys}
    assert used | {*semconv.AGGREGATES} == set(semconv.ATTRIBUTES)
    of_subnet = {*metric_table.NETWORK_KEYS, semconv.INTERFACE, semconv.SIDE}
    for base, table in ((of_subnet, SUBNET_COUNTERS), ({semconv.INTERFACE}, INTERFACE_COUNTERS)):
        for counter in table:
            keys = {*base, *counter.attributes, *((counter.axis[0],) if counter.axis else ())}
            assert keys == set(counter.metric.keys), counter.field


@pytest.mark.unit
def test_values_are_those_of_the_counters_and_of_the_methods() -> None:
    """test_labels_are_the_enumerators_in_their_order compares further values with the program."""
    used: dict[str, set[str]] = {semconv.FLOW_CLOSING: set(semconv.FLOW_CLOSINGS)}
    for counter in COUNTERS:
        constant = [(key, (value,)) for key, value in counter.attributes.items()]
        for key, values in [*constant, *([counter.axis] if counter.axis else [])]:
            used.setdefault(key, set()).update(values)
    used[semconv.NETWORK_TYPE] = set(semconv.FAMILIES.values())
    used[semconv.NETWORK_TRANSPORT] = {method.transport for method in methods.METHODS}
    used[semconv.METHOD] = set(methods.ALL)
    used[semconv.SIDE] = set(semconv.SIDES)
    used[semconv.FLOW_REVERSE] = set(semconv.FLOW_REVERSES)
    declared = {key: set(one.values) for key, one in semconv.ATTRIBUTES.items() if one.values}
    del declared[semconv.INTERFACE_EVENT]  # tests/otel/test_contract.py
    assert used == declared


@pytest.mark.unit
def test_attributes_have_either_values_or_examples() -> None:
    for name, attribute in semconv.ATTRIBUTES.items():
        assert bool(attribute.values) != bool(attribute.examples), name
        assert attribute.brief.endswith("."), name


@pytest.mark.unit
def test_units_and_names_follow_the_conventions() -> None:
    names = [metric.name for metric in metric_table.METRICS]
    assert len(names) == len(set(names))
    for metric in metric_table.METRICS:
        # opentelemetry.io/docs/specs/semconv/general/metrics: units are in UCUM; annotations are singular; names have
        # no unit.
        assert re.fullmatch(r"s|By|\{[a-z_]+[^s]\}", metric.unit), metric
        assert re.fullmatch(r"epping(\.[a-z]+(_[a-z]+)*)+", metric.name), metric
        assert not metric.name.endswith(("_total", ".seconds", ".bytes"))


@pytest.mark.unit
def test_the_documentation_is_generated_from_the_table() -> None:
    assert (ROOT / "docs/metrics.md").read_text() == metrics_page.markdown(), "run `make docs`"


@pytest.mark.unit
def test_no_other_module_contains_a_metric_or_attribute_name() -> None:
    names = {metric.name for metric in metric_table.METRICS} | set(semconv.ATTRIBUTES)
    found = []
    for path in sorted((ROOT / "otel_epping").rglob("*.py")):
        if path.name in ("metric_table.py", "agent_metrics.py", "semconv.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and (node.value in names or re.match(r"epping\.(?!bpf\.c$)", node.value))
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.value}")
    assert not found
