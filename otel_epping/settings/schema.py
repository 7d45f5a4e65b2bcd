# SPDX-License-Identifier: Apache-2.0
"""Creates the JSON schema of the settings file, and the texts of the defaults for docs/settings.md."""

from typing import Any

from otel_epping.settings.definitions import DEFINITIONS, Definition
from otel_epping.settings.types import schema_of, text_of


def schema() -> dict[str, Any]:
    """Returns the JSON schema of the settings file."""
    properties = {}
    for each in DEFINITIONS:
        value = schema_of(each.spec.type)
        if each.multiple:
            value = {"anyOf": [{"type": "array", "items": value}, value]}
        properties[each.key] = {
            "description": each.spec.help,
            "default": text_of(each.spec.type, each.default),
            # In YAML, a key without a value has the value null. A key with the value null is ignored.
            "anyOf": [*value.pop("anyOf", [value]), {"type": "null"}],
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of otel-epping",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def default_text(definition: Definition) -> str:
    """Returns the default of a setting as text, for the documentation."""
    if definition.default is None:
        return definition.spec.unset
    text = text_of(definition.spec.type, definition.default)
    if isinstance(text, list):
        return ", ".join(text)
    return str(text).lower() if isinstance(text, bool) else str(text)
