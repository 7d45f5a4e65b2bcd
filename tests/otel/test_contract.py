# SPDX-License-Identifier: Apache-2.0
"""Tests the comparison of exported metrics with schemas/ (tests/support/contract.py). Exports all declared metrics."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import metric_table, semconv
from tests.otel.test_self_metrics import bpf_stats, exporting
from tests.support.contract import Contract, ContractError, Recorder
from tests.support.prog_test_run import Bench

TABLE = metric_table.INSERT_FAILED
ATTRIBUTES: dict[str, Any] = {semconv.INTERFACE: "eth0", semconv.MAP: "flows"}
SUBNET: dict[str, Any] = {
    semconv.SUBNET: "192.0.2.0/24",
    semconv.NETWORK_TYPE: "ipv4",
    semconv.INTERFACE: "eth0",
    semconv.SIDE: "external",
}


def counter(attributes: dict[str, Any], is_monotonic: bool = True) -> Sum:
    point = NumberDataPoint(attributes, 1, 2, 3)
    return Sum([point], AggregationTemporality.CUMULATIVE, is_monotonic)


GOOD = Metric(TABLE.name, TABLE.description, TABLE.unit, counter(ATTRIBUTES))
FLOWS = Metric(metric_table.ACTIVE_FLOWS.name, "", "{flow}", counter(SUBNET, False))


def changed(**attributes: Any) -> dict[str, Any]:
    data = counter({**ATTRIBUTES, **{key.replace("__", "."): value for key, value in attributes.items()}})
    return {"data": data}


def without(metric: Metric, key: str) -> Metric:
    assert isinstance(metric.data, Sum)
    (point,) = metric.data.data_points
    attributes = {each: value for each, value in (point.attributes or {}).items() if each != key}
    return dataclasses.replace(metric, data=counter(attributes, metric.data.is_monotonic))


REFUSED = {
    "undeclared metric": dataclasses.replace(GOOD, name="epping.agent.insert.lost"),
    "the unit is '{packet}', not '{entry}'": dataclasses.replace(GOOD, unit="{packet}"),
    "the kind is updowncounter, not counter": dataclasses.replace(GOOD, data=counter(ATTRIBUTES, False)),
    "the kind is gauge, not counter": dataclasses.replace(GOOD, data=Gauge(counter(ATTRIBUTES).data_points)),
    "undeclared attribute epping.table": dataclasses.replace(GOOD, **changed(epping__table="flows")),
    "undeclared attribute epping.bound": dataclasses.replace(GOOD, **changed(epping__bound="least")),
    "epping.map has the undeclared value 'rows'": dataclasses.replace(GOOD, **changed(epping__map="rows")),
    "epping.map has the type int, not str": dataclasses.replace(GOOD, **changed(epping__map=1)),
    "network.interface.name has the type bool, not str": dataclasses.replace(
        GOOD, **changed(network__interface__name=True)
    ),
    "a point lacks ['epping.map']": without(GOOD, semconv.MAP),
    "a point lacks ['epping.rtt.side']": without(FLOWS, semconv.SIDE),
    "network.type has the undeclared value 'ipx'": dataclasses.replace(
        FLOWS, data=counter(SUBNET | {semconv.NETWORK_TYPE: "ipx"}, False)
    ),
    "undeclared attribute epping.network.tag": dataclasses.replace(
        FLOWS, data=counter(SUBNET | {semconv.NETWORK_TAG: "Berlin"}, False)
    ),
    "epping.network.tag.site has the type int, not str": dataclasses.replace(
        FLOWS, data=counter(SUBNET | {f"{semconv.NETWORK_TAG}.site": 7}, False)
    ),
    "network.peer.as.number has the type str, not int": dataclasses.replace(
        FLOWS, data=counter(SUBNET | {semconv.AS_NUMBER: "AS64500"}, False)
    ),
    "an aggregate has several attributes": dataclasses.replace(
        FLOWS, data=counter(SUBNET | {semconv.OVERFLOW: True}, False)
    ),
    "otel.metric.overflow has the type str, not bool": dataclasses.replace(
        FLOWS, data=counter({semconv.OVERFLOW: "true"}, False)
    ),
}


def in_the_sdk(contract: Contract, scope: ScopeMetrics) -> None:
    contract.check_scope(scope)


def over_otlp(contract: Contract, scope: ScopeMetrics) -> None:
    contract.check_request(encode_metrics(MetricsData([ResourceMetrics(Resource({}), [scope], "")])))


def scope(metric: Metric, schema_url: str = semconv.SCHEMA_URL, name: str = "otel_epping") -> ScopeMetrics:
    return ScopeMetrics(InstrumentationScope(name, "1", schema_url), [metric], schema_url)


NAMED: dict[str, Any] = {
    semconv.NETWORK_NAME: "Miller",
    f"{semconv.NETWORK_TAG}.site": "Berlin",
    semconv.AS_NUMBER: 64500,
    semconv.COUNTRY: "DE",
    semconv.SIDE: "external",
}
FORMS = pytest.mark.parametrize("check", [in_the_sdk, over_otlp])


@FORMS
@pytest.mark.unit
@pytest.mark.parallel
@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_declared_is_refused(check: Callable[[Contract, ScopeMetrics], None], reason: str) -> None:
    with pytest.raises(ContractError) as refused:
        check(Contract(), scope(REFUSED[reason]))
    assert reason in str(refused.value)


@FORMS
@pytest.mark.unit
@pytest.mark.parallel
def test_what_is_declared_is_allowed(check: Callable[[Contract, ScopeMetrics], None]) -> None:
    contract = Contract()
    overflow = dataclasses.replace(FLOWS, data=counter({semconv.OVERFLOW: True}, False))
    named = dataclasses.replace(FLOWS, data=counter(NAMED, False))
    for metric in (GOOD, FLOWS, overflow, named):
        check(contract, scope(metric))
    assert contract.exported == {GOOD.name, FLOWS.name}


@FORMS
@pytest.mark.unit
@pytest.mark.parallel
def test_the_schema_url_is_checked_and_other_scopes_are_ignored(
    check: Callable[[Contract, ScopeMetrics], None],
) -> None:
    with pytest.raises(ContractError, match="the schema URL is"):
        check(Contract(), scope(GOOD, semconv.OTEL_SCHEMA_URL))
    undeclared = dataclasses.replace(GOOD, name="shop.orders")
    check(Contract(), scope(undeclared, "", "shop"))


def test_every_metric_and_value_of_the_registry_is_exported(full: Bench, contract: Recorder) -> None:
    """The attributes of `in_each_subnet` depend on the packets. Other tests export all values of these attributes."""
    in_each_subnet = {semconv.NETWORK_TYPE, semconv.NETWORK_TRANSPORT, semconv.SIDE, semconv.METHOD}
    with Sink() as sink, bpf_stats(), exporting(full.collector, sink) as export:
        full.flow().begun()  # the kernel counts this run of the program
        export()
        exported = {metric.name for _, metric in sink.metrics()}
        values: dict[str, set[Any]] = {}
        for name in exported:
            for point in sink.points(name):
                for key, value in point.attributes.items():
                    values.setdefault(key, set()).add(value)
    assert exported == set(contract.contract.metrics)
    for metric in contract.contract.metrics.values():
        for key, allowed in metric.attributes.items():
            if allowed.values is not None and key not in in_each_subnet:
                assert values[key] == allowed.values, key
