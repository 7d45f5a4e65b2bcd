# SPDX-License-Identifier: Apache-2.0
"""Reads all standard variables: exporters and their settings, intervals and resource attributes."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points

from otel_epping.errors import EppingError
from otel_epping.otel.variables.environment import Environment, in_words
from otel_epping.otel.variables.headers import check_attributes
from otel_epping.otel.variables.otlp import GRPC, HTTP, Otlp, read_otlp, read_protocol

_log = logging.getLogger(__name__)

# Names of the entry points of the official exporters.
OTLP_EXPORTERS = {GRPC: "otlp_proto_grpc", HTTP: "otlp_proto_http"}
_PROTOCOLS = {name: protocol for protocol, name in OTLP_EXPORTERS.items()}
_TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_AGGREGATION = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
_EXPLICIT, _EXPONENTIAL = "explicit_bucket_histogram", "base2_exponential_bucket_histogram"
_FILTER = "OTEL_METRICS_EXEMPLAR_FILTER"
_FILTERS = ("always_on", "always_off", "trace_based")
_PROMETHEUS_PORT = "OTEL_EXPORTER_PROMETHEUS_PORT"
_DETECTORS = "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS"
_CONFIG_FILES = ("OTEL_CONFIG_FILE", "OTEL_EXPERIMENTAL_CONFIG_FILE")
_DEFAULT_INTERVAL_S, _MAX_INTERVAL_S = 60.0, 24 * 3600.0
_DEFAULT_TIMEOUT_S = 30.0
_MAX_PORT = 65535


@dataclass(frozen=True)
class StandardVariables:
    """The parsed values of the standard variables.

    exporters         names of entry points, in the order of OTEL_METRICS_EXPORTER
    otlp              settings of the official OTLP exporters, by the name of the entry point
    interval_s        time between exports
    timeout_s         maximum time for all requests of an export
    explicit_buckets  true if a variable asks for histograms with explicit buckets
    warnings          lines for the log
    canonical         values of the variables that the SDK itself reads, in the form that the SDK understands. None
                      means that the variable must be unset
    """

    exporters: tuple[str, ...]
    otlp: Mapping[str, Otlp]
    interval_s: float
    timeout_s: float
    explicit_buckets: bool
    warnings: tuple[str, ...]
    canonical: Mapping[str, str | None]

    def apply(self) -> None:
        """Sets the canonical values in the environment, for the SDK, and logs the warnings."""
        for name, value in self.canonical.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for warning in self.warnings:
            _log.warning("%s", warning)


def read(variables: Mapping[str, str] = os.environ, *, is_recorded: bool = False) -> StandardVariables:
    """Reads all variables. Raises an EppingError that lists all invalid variables.

    If `is_recorded` is set, exports are recorded in a file, so OTEL_METRICS_EXPORTER may be `none`.
    """
    environment = Environment(variables)
    for name in _CONFIG_FILES:
        if variable := environment.find(name):
            environment.add_error(
                variable, "which otel-epping does not support: unset it, and use the OTEL_* variables instead"
            )
    if environment.boolean("OTEL_SDK_DISABLED"):
        raise EppingError("OTEL_SDK_DISABLED is true, so nothing would be exported: unset it")
    protocol = read_protocol(environment)
    exporters = _exporters(environment, protocol, is_recorded)
    otlp = {name: read_otlp(environment, _PROTOCOLS[name]) for name in exporters if name in _PROTOCOLS}
    for name, values in ((_TEMPORALITY, ("cumulative", "delta", "lowmemory")), (_FILTER, _FILTERS)):
        environment.canonical[name] = environment.choice(values, name)
    environment.canonical[_AGGREGATION] = environment.choice((_EXPLICIT, _EXPONENTIAL), _AGGREGATION)
    check_attributes(environment, "OTEL_RESOURCE_ATTRIBUTES")
    service = environment.text("OTEL_SERVICE_NAME", is_name=True)
    environment.canonical["OTEL_SERVICE_NAME"] = service.value if service else None
    _check_detectors(environment)
    if "prometheus" in exporters:
        _check_port(environment)
    interval_s = _seconds(environment, "OTEL_METRIC_EXPORT_INTERVAL", _DEFAULT_INTERVAL_S, _MAX_INTERVAL_S)
    timeout_s = _seconds(environment, "OTEL_METRIC_EXPORT_TIMEOUT", _DEFAULT_TIMEOUT_S, _MAX_INTERVAL_S, zero=True)
    environment.raise_errors()
    # The SDK does not treat an empty value as unset, so empty variables are removed.
    empty = {name: None for name, value in variables.items() if name.startswith("OTEL_") and not value.strip()}
    return StandardVariables(
        exporters,
        otlp,
        interval_s,
        timeout_s,
        environment.canonical[_AGGREGATION] == _EXPLICIT,
        tuple(dict.fromkeys(environment.warnings)),
        empty | environment.canonical,
    )


def _exporters(environment: Environment, protocol: str, is_recorded: bool) -> tuple[str, ...]:
    """Returns names of entry points. `otlp`, the default, stands for the official exporter of the protocol."""
    variable = environment.text("OTEL_METRICS_EXPORTER")
    if not variable:
        return (OTLP_EXPORTERS[protocol],)
    given = [each.strip().lower() for each in variable.value.split(",")]
    names = [OTLP_EXPORTERS[protocol] if name == "otlp" else name for name in given if name not in ("", "none")]
    if not names and not is_recorded:
        environment.add_error(variable, "so nothing would be exported: use otlp or console")
    for name in sorted({name for name in names if names.count(name) > 1}):
        environment.add_error(variable, f"which has {name} twice, so each export would be sent twice: write it once")
    return tuple(dict.fromkeys(names))


def _seconds(environment: Environment, name: str, default_s: float, max_s: float, *, zero: bool = False) -> float:
    """Reads milliseconds and returns seconds.

    With `zero`, the value 0 is valid and means no limit (specification, "Timeout"), and `max_s` is returned for 0.
    """
    variable = environment.text(name)
    number = environment.milliseconds(variable) if variable else None
    if variable is None or number is None:
        return default_s
    if number < 1 and not (zero and number == 0):
        environment.add_error(
            variable, "which is below 1 millisecond: set a number of milliseconds, such as 60000 for a minute"
        )
        return default_s
    if number / 1e3 > max_s:
        environment.add_error(variable, f"which is over {max_s * 1e3:.0f} milliseconds: set a smaller value")
        return default_s
    return number / 1e3 if number else max_s


def _check_detectors(environment: Environment) -> None:
    variable = environment.text(_DETECTORS)
    if not variable:
        return
    known = {found.name for found in entry_points(group="opentelemetry_resource_detector")}
    for name in (each.strip() for each in variable.value.split(",")):
        if name and name not in known | {"*"}:
            environment.add_error(variable, f"where {name!r} is not a resource detector: use {in_words(sorted(known))}")


def _check_port(environment: Environment) -> None:
    variable = environment.text(_PROMETHEUS_PORT)
    if variable and not (variable.value.isdecimal() and 0 < int(variable.value) <= _MAX_PORT):
        environment.add_error(variable, f"which is not a port: set a number from 1 to {_MAX_PORT}")
