# SPDX-License-Identifier: Apache-2.0
"""Reads names of networks from a YAML file: a list of mappings with the keys `cidr`, `name` and further keys as tags.

Values are read as text, without the implicit types of YAML 1.1, as in otel_epping/settings/file.py. For example, the
name `no` is a text, not False. The file is read as events. Reading nodes takes 15 times as long.
"""

from collections.abc import Iterator
from typing import NamedTuple

import yaml

from otel_epping.errors import EppingError
from otel_epping.networks.builder import NetworksBuilder, tag_name
from otel_epping.networks.line_errors import LineError, LineErrors
from otel_epping.networks.network import Networks
from otel_epping.networks.prefix_text import packed

# libyaml needs a tenth of the time of PyYAML's parser in Python. Some builds of PyYAML do not contain libyaml.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = {"", "~", "null", "Null", "NULL"}  # https://yaml.org/type/null.html
_EXAMPLE = "- {cidr: 198.51.100.0/24, name: Office}"


class _Item(NamedTuple):
    """An item of the list: its line, its prefixes with their lines, and the texts of its name and tags."""

    line: int
    prefixes: list[tuple[int, str]]
    texts: dict[str, str]


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 0


def _text(event: yaml.Event, what: str) -> str:
    """Returns the text of a scalar, or "" for a null. Raises LineError for any other event."""
    if isinstance(event, yaml.ScalarEvent):
        is_plain = event.implicit[0]
        return "" if is_plain and event.value in _NULL else str(event.value)
    if isinstance(event, yaml.AliasEvent):
        raise LineError(f"{what} is an alias: write the value itself")
    raise LineError(f"{what} has more than one value: write a single value")


def _value_events(events: Iterator[yaml.Event]) -> list[yaml.Event]:
    """Returns the events of the next value: one event, or all events of a list or a mapping."""
    found = [next(events)]
    if not isinstance(found[0], yaml.CollectionStartEvent):
        return found
    depth = 1
    while depth:
        found.append(event := next(events))
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
    return found


def _item(events: list[yaml.Event], keys: dict[str, str]) -> _Item:
    """Returns the item with these events. `keys` maps keys of the file to names of tags; new keys are added.

    If the item is invalid, raises LineError.
    """
    if not isinstance(events[0], yaml.MappingStartEvent):
        raise LineError(f"this is not a network: write each network as {_EXAMPLE}")
    item = _Item(_line(events[0]), [], {})
    inner = iter(events[1:-1])
    for key_event in inner:
        key_text = _text(key_event, "the key")
        if key_text not in keys:
            keys[key_text] = key_text if key_text in ("cidr", "name") else tag_name(key_text)
        key = keys[key_text]
        if key in item.texts:
            raise LineError(f"the key {key} occurs twice: keep one of the two")
        value = _value_events(inner)
        if key == "cidr" and isinstance(value[0], yaml.SequenceStartEvent):
            value = value[1:-1]
        elif len(value) > 1:
            raise LineError(f"the key {key} has more than one value: write a single value")
        texts = [_text(event, f"the value of {key}") for event in value]
        if key == "cidr":
            item.prefixes.extend((_line(event), text) for event, text in zip(value, texts, strict=True))
        item.texts[key] = "".join(texts)
    item.texts.pop("cidr", None)
    if not item.prefixes:
        raise LineError("the prefix (cidr) is missing: write " + _EXAMPLE)
    return item


def _items(path: str, text: str, keys: dict[str, str]) -> Iterator[_Item]:
    """Yields the items of the list. If items are invalid, raises EppingError after the last item."""
    errors = LineErrors(path)
    events = iter(yaml.parse(text, _LOADER))
    next(events)  # The start of the stream.
    if isinstance(next(events), yaml.StreamEndEvent):  # Otherwise this event is the start of a document.
        return
    root = next(events)
    if not isinstance(root, yaml.SequenceStartEvent):
        if isinstance(root, yaml.ScalarEvent) and root.value in _NULL:
            return
        raise EppingError(f"{path}:{_line(root)}: this is not a list of networks: write each network as {_EXAMPLE}")
    while not isinstance((item := _value_events(events))[0], yaml.SequenceEndEvent):
        try:
            yield _item(item, keys)
        except LineError as error:
            errors.add(_line(item[0]), error)
    errors.check()
    next(events)  # The end of the document.
    if not isinstance(event := next(events), yaml.StreamEndEvent):
        raise EppingError(f"{path}:{_line(event)}: a second YAML document starts here: write one list")


def read(path: str, text: str) -> Networks:
    """Returns the networks in a YAML text.

    Raises EppingError with the file, the line, the cause and the cure for each item that is invalid.
    """
    keys: dict[str, str] = {}
    try:
        items = list(_items(path, text, keys))
    except yaml.MarkedYAMLError as error:
        place = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise EppingError(f"{path}{place}: this is not YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # The file contains control characters.
        raise EppingError(f"{path}: this is not YAML: {' '.join(str(error).split())}") from None
    tags = [tag for tag in dict.fromkeys(keys.values()) if tag not in ("cidr", "name")]
    builder = NetworksBuilder(path, tags)
    for item in items:
        fields = (item.texts.get("name", ""), *(item.texts.get(tag, "") for tag in tags))
        for line, prefix in item.prefixes:
            try:
                builder.add(line, packed(prefix), fields)
            except LineError as invalid:
                builder.errors.add(line, invalid)
    return builder.build()
