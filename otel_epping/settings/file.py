# SPDX-License-Identifier: Apache-2.0
"""Reads settings from a YAML file. The whole file is checked, and an error message contains the line number.

Values are read as text, without the implicit types of YAML 1.1. For example, `no` is read as a text, not as
False, and `1:30` is read as a text, not as the number 90.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from otel_epping.errors import EppingError
from otel_epping.settings.definitions import BY_KEY, Definition
from otel_epping.settings.types import Attributes, Names

if TYPE_CHECKING:
    import yaml

_NULL, _SEQUENCE, _MAPPING = "tag:yaml.org,2002:null", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"


class Given(NamedTuple):
    """A converted value, and the file and line that contain the value."""

    value: Any
    where: str


def suggestion(name: str, known: list[str]) -> str:
    """Returns the end of an error message about an unknown name: the most similar known name, or all known names."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"choose among {', '.join(known)}"


def _text(node: "yaml.Node", where: str) -> str:
    if not isinstance(node.value, str):
        raise EppingError(f"{where}: this setting takes a single value")
    return node.value


def _list(node: "yaml.Node", where: str) -> str:
    """Returns the items of a list, separated by commas."""
    is_list = isinstance(node.value, list) and node.tag == _SEQUENCE
    return ",".join(_text(each, where) for each in node.value) if is_list else _text(node, where)


def _convert(kind: click.ParamType[Any], text: str, where: str) -> Any:
    try:
        return kind.convert(text, None, None)
    except click.BadParameter as error:
        raise EppingError(f"{where}: {error.message}") from None


def _value(definition: Definition, node: "yaml.Node", where: str) -> Any:
    kind = definition.spec.type
    if isinstance(kind, Attributes) and isinstance(node.value, list) and node.tag == _MAPPING:
        return _convert(
            kind, ";".join(f"{_text(key, where)}={_list(names, where)}" for key, names in node.value), where
        )
    may_be_list = definition.multiple or isinstance(kind, Names)
    if isinstance(node.value, list) and may_be_list and node.tag == _SEQUENCE:
        texts = [_text(each, where) for each in node.value]
    else:
        texts = [_text(node, where)]
    if definition.multiple:
        return tuple(_convert(kind, text, where) for text in texts)
    return _convert(kind, ",".join(texts), where)


def read(path: str) -> dict[str, Given]:
    """Returns the values in a settings file. The keys of the result are the names of fields of Settings.

    If a key in the file has no value, the key is ignored.

    If the file is invalid, raises EppingError with the file, the line, the key and the allowed values.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise EppingError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    import yaml  # takes 1 MB of memory, and is needed only to read a settings file

    try:
        # The content is passed as bytes, because the encoding of YAML does not depend on the locale. A YAML file is
        # UTF-8 text, or UTF-16 text with a byte order mark.
        root = yaml.compose(content, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise EppingError(f"{path}{line}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # the file is not text, or contains control characters
        raise EppingError(f"cannot read {path}: {' '.join(str(error).split())}: save it as UTF-8 text") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise EppingError(f"{path} is not a YAML mapping: write each setting as key: value")
    given: dict[str, Given] = {}
    lines: dict[str, str] = {}
    for name, node in root.value:
        where = f"{path}:{name.start_mark.line + 1}"
        key = name.value if isinstance(name.value, str) else ""
        if key not in BY_KEY:
            raise EppingError(
                f"{where}: there is no setting {key!r}: {suggestion(key.replace('-', '_'), list(BY_KEY))}"
            )
        if key in lines:
            raise EppingError(f"{where}: {key} is already set in line {lines[key]}: keep one of the two lines")
        lines[key] = str(name.start_mark.line + 1)
        if node.tag != _NULL:
            given[BY_KEY[key].field] = Given(_value(BY_KEY[key], node, f"{where}: {key}"), where)
    return given
