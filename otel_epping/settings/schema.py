# SPDX-License-Identifier: Apache-2.0
"""The JSON schema of the settings file, and the text of defaults."""

from typing import Any

from otel_epping.settings.model import SETTINGS, Setting
from otel_epping.settings.types import schema_of, text_of


def schema() -> dict[str, Any]:
    """JSON schema of a file of settings."""
    properties = {}
    for setting in SETTINGS:
        value = schema_of(setting.row.type)
        if setting.several:
            value = {"anyOf": [{"type": "array", "items": value}, value]}
        default = text_of(setting.row.type, setting.default)
        properties[setting.key] = {
            "description": setting.row.help,
            "default": default,
            # A key without a value is as if it were not there.
            "anyOf": [*value.pop("anyOf", [value]), {"type": "null"}],
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of otel-epping",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def default_text(setting: Setting) -> str:
    """The default, in words."""
    if setting.default is None:
        return setting.row.unset
    text = text_of(setting.row.type, setting.default)
    if isinstance(text, list):
        return ", ".join(text)
    return str(text).lower() if isinstance(text, bool) else str(text)
