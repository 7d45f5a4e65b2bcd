# SPDX-License-Identifier: Apache-2.0
"""Tests that schemas/ is generated from the tables, and follows the rules of OpenTelemetry's registry."""

import re

import pytest
import yaml

from otel_epping.otel import scope, semconv
from otel_epping.version import __version__
from scripts import registry

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


def test_the_registry_is_generated_from_the_tables() -> None:
    """The folder also contains the schema files of earlier versions."""
    for name, text in registry.files().items():
        assert (registry.FOLDER / name).read_text() == text, "run `make docs`"
    others = {path.name for path in registry.FOLDER.iterdir()} - registry.files().keys()
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", name) for name in others)


def test_the_schema_url_ends_with_the_version_and_names_a_file() -> None:
    assert semconv.SCHEMA_URL.endswith(f"/schemas/{__version__}")
    schema = yaml.safe_load((registry.FOLDER / __version__).read_text())
    assert schema["schema_url"] == scope.SCOPE.schema_url == semconv.SCHEMA_URL
    assert [*schema["versions"]] == [__version__]


def test_only_our_own_attributes_are_defined() -> None:
    files = {name: yaml.safe_load(text) for name, text in registry.files().items()}
    defined = {attribute["key"] for attribute in files["attributes.yaml"]["attributes"]}
    referred = {ref["ref"] for metric in files["metrics.yaml"]["metrics"] for ref in metric["attributes"]}
    assert {key for key in referred - defined if not key.startswith("network.")} == {semconv.COUNTRY}
    # OpenTelemetry's specification defines otel.metric.overflow, but its registry does not contain the attribute. The
    # attributes of AS numbers are in an open pull request.
    others = {semconv.OVERFLOW, semconv.AS_NUMBER, semconv.AS_ORGANIZATION}
    assert {key for key in defined if not key.startswith("epping.")} == others


def test_no_attribute_name_is_the_namespace_of_another_attribute() -> None:
    """A rule of OpenTelemetry's naming policy (open-telemetry/opentelemetry-weaver-packages)."""
    names = set(semconv.ATTRIBUTES)
    assert {name for name in names for other in names if other.startswith(f"{name}.")} == set()


def test_each_definition_has_what_the_format_requires() -> None:
    files = {name: yaml.safe_load(text) for name, text in registry.files().items()}
    levels = {"development", "alpha", "beta", "release_candidate", "stable"}
    for attribute in files["attributes.yaml"]["attributes"]:
        assert attribute.keys() >= {"key", "type", "brief", "stability"}
        assert attribute["stability"] in levels
        members = attribute["type"]["members"] if isinstance(attribute["type"], dict) else []
        assert members or attribute["examples"]
        assert all(re.fullmatch(r"[a-z][a-z0-9_]*", member["id"]) for member in members)
    for metric in files["metrics.yaml"]["metrics"]:
        assert metric.keys() >= {"name", "brief", "instrument", "unit", "stability", "requirement_level", "attributes"}
        assert metric["instrument"] in {"counter", "gauge", "histogram", "updowncounter"}
        assert metric["stability"] in levels
        assert re.fullmatch(r"[^.].*\.", metric["brief"]), "one sentence"
