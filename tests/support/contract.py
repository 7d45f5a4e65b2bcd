# SPDX-License-Identifier: Apache-2.0
"""Checks exported metrics against the registry in schemas/.

The fixtures of this plug-in check everything that the tests export, and everything that a `Sink` receives. The checks
run after each test, so that they do not change the time that a test takes to answer a request. Metrics of other
instrumentation scopes are ignored. Tests that export invented points use a scope of their own.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import Gauge, ScopeMetrics, Sum

from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel.producer import EppingMetricProducer

SCHEMAS = Path(__file__).parents[2] / "schemas"
_TYPES = {"string": str, "template[string]": str, "boolean": bool, "int": int}


class ContractError(AssertionError):
    """Exported metrics that the registry does not allow."""


@dataclass(frozen=True)
class Allowed:
    """The type of an attribute, and all its values if the set of values is closed. `alone`: a point with the attribute
    has no other attribute. `template`: exported names consist of the attribute's name, a dot and a key."""

    type: type
    values: frozenset[Any] | None = None
    required: bool = False
    alone: bool = False
    template: bool = False


@dataclass(frozen=True)
class Declared:
    """A metric of the registry. `required` are the attributes of all points except aggregates."""

    instrument: str
    unit: str
    attributes: dict[str, Allowed]
    required: frozenset[str]

    def find(self, key: str) -> Allowed | None:
        """Return which values an exported attribute may have."""
        if key in self.attributes:
            return None if self.attributes[key].template else self.attributes[key]
        names = (name for name, each in self.attributes.items() if each.template and key.startswith(f"{name}."))
        return next((self.attributes[name] for name in names), None)


def _allowed(reference: dict[str, Any], definitions: dict[str, dict[str, Any]]) -> Allowed:
    """Return which values a reference to an attribute allows. The type of an attribute that OpenTelemetry defines
    follows from the attribute's examples."""
    ours = reference.get("annotations", {}).get("otel_epping", {})
    level = reference["requirement_level"]
    required = (level == "required" or "conditionally_required" in level) and "alone" not in ours
    definition = definitions.get(reference["ref"])
    if definition is None:
        values = frozenset(reference["examples"])
        return Allowed(type(reference["examples"][0]), values if "closed" in ours else None, required)
    if isinstance(definition["type"], str):
        template = definition["type"].startswith("template")
        return Allowed(_TYPES[definition["type"]], None, required, "alone" in ours, template)
    values = frozenset(member["value"] for member in definition["type"]["members"])
    return Allowed(type(next(iter(values))), values, required)


class Contract:
    """The registry. The methods raise ContractError.

    metrics   the declared metrics, by name
    exported  the names of all metrics that were checked
    """

    def __init__(self, folder: Path = SCHEMAS) -> None:
        manifest, attributes, metrics = (
            yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("manifest", "attributes", "metrics")
        )
        definitions = {definition["key"]: definition for definition in attributes["attributes"]}
        self.schema_url = manifest["schema_url"]
        self.exported: set[str] = set()
        self.metrics: dict[str, Declared] = {}
        for metric in metrics["metrics"]:
            allowed = {each["ref"]: _allowed(each, definitions) for each in metric["attributes"]}
            required = frozenset(name for name, attribute in allowed.items() if attribute.required)
            self.metrics[metric["name"]] = Declared(metric["instrument"], metric["unit"], allowed, required)

    def check_request(self, request: ExportMetricsServiceRequest) -> None:
        """Check the metrics of an OTLP request."""
        for resource in request.resource_metrics:
            for scope in resource.scope_metrics:
                if not self._is_ours(scope.scope.name, scope.schema_url):
                    continue
                for metric in scope.metrics:
                    data = getattr(metric, str(metric.WhichOneof("data")))
                    kind = _kind(str(metric.WhichOneof("data")), getattr(data, "is_monotonic", False))
                    self._check(metric.name, metric.unit, kind, map(_decoded, data.data_points))

    def check_scope(self, scope: ScopeMetrics) -> None:
        """Check metrics that are objects of the SDK."""
        if not self._is_ours(scope.scope.name, scope.schema_url):
            return
        for metric in scope.metrics:
            name = {Sum: "sum", Gauge: "gauge"}.get(type(metric.data), "histogram")
            kind = _kind(name, getattr(metric.data, "is_monotonic", False))
            self._check(metric.name, metric.unit or "", kind, (p.attributes or {} for p in metric.data.data_points))

    def _is_ours(self, scope: str, schema_url: str) -> bool:
        if scope.partition(".")[0] != "otel_epping":
            return False
        if schema_url != self.schema_url:
            raise ContractError(f"{scope}: the schema URL is {schema_url!r}, not {self.schema_url!r}")
        return True

    def _check(self, name: str, unit: str, kind: str, points: Iterable[Mapping[str, Any]]) -> None:
        metric = self.metrics.get(name)
        if metric is None:
            raise ContractError(f"{name}: undeclared metric")
        if unit != metric.unit:
            raise ContractError(f"{name}: the unit is {unit!r}, not {metric.unit!r}")
        if kind != metric.instrument:
            raise ContractError(f"{name}: the kind is {kind}, not {metric.instrument}")
        self.exported.add(name)
        for attributes in points:
            _check_attributes(name, metric, attributes)


def _check_attributes(name: str, metric: Declared, attributes: Mapping[str, Any]) -> None:
    alone = False
    for key, value in attributes.items():
        allowed = metric.find(key)
        if allowed is None:
            raise ContractError(f"{name}: undeclared attribute {key}")
        if type(value) is not allowed.type:
            raise ContractError(f"{name}: {key} has the type {type(value).__name__}, not {allowed.type.__name__}")
        if allowed.values is not None and value not in allowed.values:
            raise ContractError(f"{name}: {key} has the undeclared value {value!r}")
        alone |= allowed.alone
    if alone and len(attributes) > 1:
        raise ContractError(f"{name}: an aggregate has several attributes: {dict(attributes)}")
    if not alone and not metric.required <= attributes.keys():
        raise ContractError(f"{name}: a point lacks {sorted(metric.required - attributes.keys())}: {dict(attributes)}")


def _kind(data: str, is_monotonic: bool) -> str:
    """Return the instrument that matches a kind of data of OTLP."""
    if data == "sum":
        return "counter" if is_monotonic else "updowncounter"
    return data.removeprefix("exponential_")


def _decoded(point: Any) -> dict[str, Any]:
    # Most values are strings that are not empty, and large requests have a million of them.
    return {
        pair.key: pair.value.string_value or getattr(pair.value, str(pair.value.WhichOneof("value")))
        for pair in point.attributes
    }


class Recorder:
    """Records what is exported until the next check."""

    def __init__(self) -> None:
        self.contract = Contract()
        self.bodies: list[bytes] = []
        self.scopes: list[ScopeMetrics] = []

    def check(self) -> None:
        """Check the recorded metrics, and forget them."""
        bodies, scopes = self.bodies, self.scopes
        self.bodies, self.scopes = [], []
        for body in bodies:
            self.contract.check_request(ExportMetricsServiceRequest.FromString(body))
        for scope in scopes:
            self.contract.check_scope(scope)


@pytest.fixture(scope="session", autouse=True)
def exports() -> Iterator[Recorder]:
    """Records all exports of this process, and all requests that its sinks accept."""
    recorder = Recorder()
    accept, metrics = Sink.accept, EppingMetricProducer.metrics

    def recording_accept(self: Sink, body: bytes, headers: dict[str, str], protocol: Any) -> int:
        status = accept(self, body, headers, protocol)
        recorder.bodies.append(body)
        return status

    def recording_metrics(self: EppingMetricProducer, batch: Any) -> ScopeMetrics:
        scope = metrics(self, batch)
        recorder.scopes.append(scope)
        return scope

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sink, "accept", recording_accept)
        patch.setattr(EppingMetricProducer, "metrics", recording_metrics)
        yield recorder


@pytest.fixture(autouse=True)
def contract(exports: Recorder) -> Iterator[Recorder]:
    """After each test, compares all metrics that were exported during the test with the registry."""
    yield exports
    exports.check()
