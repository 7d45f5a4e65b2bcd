# SPDX-License-Identifier: Apache-2.0
"""Writes schemas/ from the tables of metrics and attributes: `python -m scripts.registry`.

manifest.yaml, attributes.yaml and metrics.yaml are a registry of semantic conventions in the format definition/2 of
OpenTelemetry Weaver (https://github.com/open-telemetry/weaver, schemas/semconv-syntax.v2.md). The file whose name is
the version is a schema file (format 1.1.0 of the OpenTelemetry specification). The schema URL of all exported metrics
is the URL of this file.
"""

import re
from pathlib import Path
from typing import Any

import yaml

from otel_epping.otel import metric_table, semconv
from otel_epping.otel.metric import Metric
from otel_epping.version import __version__

FOLDER = Path(__file__).parents[1] / "schemas"
# REUSE-IgnoreStart: the licence of the generated files
_HEAD = "# SPDX-License-Identifier: Apache-2.0\n# `make docs` generates this file. Edit otel_epping/otel/{} instead.\n"
# REUSE-IgnoreEnd
_OTEL_VERSION = semconv.OTEL_SCHEMA_URL.rpartition("/")[2]
_MANIFEST = {
    "description": "Metrics of otel-epping: passive network round-trip times and traffic by subnet.",
    "schema_url": semconv.SCHEMA_URL,
    "stability": "development",
    "dependencies": [
        {
            "schema_url": semconv.OTEL_SCHEMA_URL,
            "registry_path": f"https://github.com/open-telemetry/semantic-conventions@v{_OTEL_VERSION}[model]",
        }
    ],
}


def _brief_and_note(text: str) -> dict[str, str]:
    """Splits a description after its first sentence."""
    brief, *rest = re.split(r"(?<=\.) (?=[A-Z`])", text, maxsplit=1)
    return {"brief": brief, **({"note": rest[0]} if rest else {})}


def _attribute(name: str) -> dict[str, Any]:
    """Returns the definition of an attribute that otel-epping defines."""
    attribute = semconv.ATTRIBUTES[name]
    found: dict[str, Any] = {"key": name, "brief": attribute.brief}
    if attribute.note:
        found["note"] = attribute.note
    found["stability"] = attribute.stability
    if attribute.values:
        found["type"] = {
            "members": [
                {"id": value, "value": value, "brief": meaning, "stability": attribute.stability}
                for value, meaning in attribute.values.items()
            ]
        }
    else:
        type_ = {str: "string", bool: "boolean", int: "int"}[type(attribute.examples[0])]
        found["type"] = f"template[{type_}]" if attribute.is_template else type_
        found["examples"] = [*attribute.examples]
    return found


def _reference(name: str, level: semconv.Level) -> dict[str, Any]:
    """Returns a reference to an attribute, with annotations for tests/support/contract.py.

    closed  the examples are all values of the attribute. Our registry cannot change the type of an attribute that
            OpenTelemetry defines.
    alone   a point with this attribute has no other attribute
    """
    attribute = semconv.ATTRIBUTES[name]
    found: dict[str, Any] = {"ref": name, "requirement_level": level if isinstance(level, str) else {**level}}
    if attribute.is_otel:
        found["examples"] = [*(attribute.values or attribute.examples)]
    if attribute.is_otel and attribute.values:
        found["annotations"] = {"otel_epping": {"closed": True}}
    if name in semconv.AGGREGATES:
        found["annotations"] = {"otel_epping": {"alone": True}}
    return found


def _metric(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        **_brief_and_note(metric.description),
        "instrument": "histogram" if metric is metric_table.RTT else metric.kind,
        "unit": metric.unit,
        "stability": metric.stability,
        "requirement_level": "recommended",
        "attributes": [_reference(name, level) for name, level in metric.requirement_levels().items()],
    }


def _yaml(source: str, content: dict[str, Any]) -> str:
    return _HEAD.format(source) + yaml.safe_dump(content, sort_keys=False, width=118, allow_unicode=True)


def files() -> dict[str, str]:
    """Returns the text of each file of schemas/ that belongs to this version."""
    ours = [name for name, attribute in semconv.ATTRIBUTES.items() if not attribute.is_otel]
    attributes = {"file_format": "definition/2", "attributes": [_attribute(name) for name in ours]}
    metrics = {"file_format": "definition/2", "metrics": [_metric(metric) for metric in metric_table.METRICS]}
    schema = {"file_format": "1.1.0", "schema_url": semconv.SCHEMA_URL, "versions": {__version__: {}}}
    return {
        "manifest.yaml": _yaml("semconv.py", _MANIFEST),
        "attributes.yaml": _yaml("semconv.py", attributes),
        "metrics.yaml": _yaml("metric_table.py", metrics),
        __version__: _yaml("semconv.py", schema),
    }


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, content in files().items():
        (FOLDER / file_name).write_text(content)
