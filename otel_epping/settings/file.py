# SPDX-License-Identifier: Apache-2.0
"""Reads settings from a YAML file. The whole file is checked, and errors name the line.

Values are taken as they are written, without the implicit types of YAML 1.1: `no` is a name, `1:30` is not ninety.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from otel_epping.errors import EppingError
from otel_epping.settings.model import BY_KEY, Definition
from otel_epping.settings.types import Methods

if TYPE_CHECKING:
    import yaml

_NULL, _SEQUENCE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:seq"


class Given(NamedTuple):
    """A converted value, and the file and line that it is from."""

    value: Any
    where: str


def suggestion(name: str, known: list[str]) -> str:
    """The end of an error message about an unknown name: the most similar name, or all names."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"choose among {', '.join(known)}"


def _text(node: "yaml.Node", where: str) -> str:
    if not isinstance(node.value, str):
        raise EppingError(f"{where}: this setting takes a single value")
    return node.value


def _value(definition: Definition, node: "yaml.Node", where: str) -> Any:
    kind = definition.spec.type
    may_be_list = definition.multiple or isinstance(kind, Methods)
    if isinstance(node.value, list) and may_be_list and node.tag == _SEQUENCE:
        texts = [_text(each, where) for each in node.value]
    else:
        texts = [_text(node, where)]
    try:
        if definition.multiple:
            return tuple(kind.convert(text, None, None) for text in texts)
        return kind.convert(",".join(texts), None, None)
    except click.BadParameter as error:
        raise EppingError(f"{where}: {error.message}") from None


def read(path: str) -> dict[str, Given]:
    """The values of a file, by the fields of Settings. A key without a value is ignored.

    Raises EppingError with the file, the line, the key and the allowed values.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise EppingError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    import yaml  # takes 1 MB, and is needed only with a file

    try:
        # Bytes, not text: YAML is UTF-8, or UTF-16 with a byte order mark, whatever the locale is.
        root = yaml.compose(content, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise EppingError(f"{path}{line}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # from YAML's reader: not text, or text with control characters
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
            raise EppingError(f"{where}: {key} is already set in line {lines[key]}: keep one of them")
        lines[key] = str(name.start_mark.line + 1)
        if node.tag != _NULL:
            given[BY_KEY[key].field] = Given(_value(BY_KEY[key], node, f"{where}: {key}"), where)
    return given
