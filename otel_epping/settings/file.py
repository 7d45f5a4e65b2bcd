# SPDX-License-Identifier: Apache-2.0
"""Settings from a YAML file: checked whole, each with the line it is on.

Values are taken as they are written, not as YAML 1.1 would guess: `no` is a name, `1:30` is not ninety.
"""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from otel_epping.errors import EppingError
from otel_epping.settings.model import BY_KEY, Setting
from otel_epping.settings.types import Methods

if TYPE_CHECKING:
    import yaml

_NULL, _SEQUENCE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:seq"


class Given(NamedTuple):
    """A value, converted, and where it is from: file and line."""

    value: Any
    where: str


def nearest(name: str, known: list[str]) -> str:
    """Ends a complaint of a name that there is not."""
    close = difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {close[0]}?" if close else f"choose among {', '.join(known)}"


def _text(node: "yaml.Node", where: str) -> str:
    if not isinstance(node.value, str):
        raise EppingError(f"{where}: a single value is wanted")
    return node.value


def _value(setting: Setting, node: "yaml.Node", where: str) -> Any:
    many = setting.several or isinstance(setting.row.type, Methods)
    if isinstance(node.value, list) and many and node.tag == _SEQUENCE:
        texts = [_text(each, where) for each in node.value]
    else:
        texts = [_text(node, where)]
    try:
        if setting.several:
            return tuple(setting.row.type.convert(text, None, None) for text in texts)
        return setting.row.type.convert(",".join(texts), None, None)
    except click.BadParameter as error:
        raise EppingError(f"{where}: {error.message}") from None


def read(path: str) -> dict[str, Given]:
    """What a file says, by the fields of Settings. Raises EppingError with file, line, key and what is allowed.

    A key without a value is as if it were not there.
    """
    try:
        content = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise EppingError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    import yaml  # 1 MB, which only those pay who have a file

    try:
        # Of bytes, as YAML is UTF-8, or UTF-16 with a byte order mark, whatever the locale says.
        root = yaml.compose(content, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise EppingError(f"{path}{line}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # of its reader: this is not text, or has control characters
        raise EppingError(f"cannot read {path}: {' '.join(str(error).split())}: save it as UTF-8 text") from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise EppingError(f"{path} is not a list of settings, each as key: value")
    given: dict[str, Given] = {}
    lines: dict[str, str] = {}
    for name, node in root.value:
        where = f"{path}:{name.start_mark.line + 1}"
        key = name.value if isinstance(name.value, str) else ""
        if key not in BY_KEY:
            raise EppingError(f"{where}: there is no setting {key!r}: {nearest(key.replace('-', '_'), list(BY_KEY))}")
        if key in lines:
            raise EppingError(f"{where}: {key} is set already, in line {lines[key]}: keep one of them")
        lines[key] = str(name.start_mark.line + 1)
        if node.tag != _NULL:
            given[BY_KEY[key].field] = Given(_value(BY_KEY[key], node, f"{where}: {key}"), where)
    return given
