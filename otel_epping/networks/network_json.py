# SPDX-License-Identifier: Apache-2.0
"""Reads network.json of LibreQoS: the tree of sites and access points above the circuits."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from otel_epping.errors import EppingError
from otel_epping.process.escaping import escaped


def readable(text: str) -> str:
    """Returns a text of LibreQoS in one line, with unprintable characters escaped."""
    text = text.strip()
    return text if text.isprintable() else escaped(" ".join(text.split()))


class Levels(NamedTuple):
    """The levels above a circuit.

    site   the name of the site at the top of the tree
    tower  the name of the lowest site above the circuit
    """

    site: str = ""
    tower: str = ""


def _children(node: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the name and the object of each child of a node. As in LibreQoS, each object inside a node is a child.

    Only the object `children` is not a child, but contains children. LibreQoS visits the children sorted by name.
    """
    for name, value in sorted(node.items()):
        if isinstance(value, dict):
            if name == "children":
                yield from _children(value)
            else:
                yield name, value


def _is_site(node: dict[str, Any]) -> bool:
    """Returns true if a node is a site. If its type is not known, a node with children is a site."""
    kind = str(node.get("type", "")).lower()
    return kind == "site" or (kind != "ap" and next(_children(node), None) is not None)


class Tree:
    """The tree of the file `path` with the content `text`.

    If several nodes have the same name or ID, the first node counts, as in LibreQoS.

    Raises EppingError if the text is not a tree.
    """

    def __init__(self, path: str, text: str) -> None:
        self._by_id: dict[str, Levels] = {}
        self._by_name: dict[str, Levels] = {}
        try:
            root = json.loads(text)
            if not isinstance(root, dict):
                raise EppingError(f"{path}:1: this is not network.json of LibreQoS: the file must contain an object")
            self._add(root, Levels())
        except json.JSONDecodeError as error:
            raise EppingError(f"{path}:{error.lineno}: this is not JSON: {error.msg}") from None
        except RecursionError:
            raise EppingError(f"{path}: the tree has too many levels: remove levels") from None
        except ValueError as error:  # An integer has too many digits.
            raise EppingError(f"{path}: this is not JSON: {error}") from None

    def levels(self, node_id: str, name: str) -> Levels:
        """Returns the levels of the circuits of a node. The ID has precedence. An unknown node has no levels."""
        return self._by_id.get(node_id) or self._by_name.get(name) or Levels()

    def _add(self, parent: dict[str, Any], above: Levels) -> None:
        for key, node in _children(parent):
            name = readable(key)
            levels = Levels(above.site or name, name) if _is_site(node) else above
            self._by_name.setdefault(name, levels)
            if node_id := node.get("id"):
                self._by_id.setdefault(str(node_id), levels)
            self._add(node, levels)
