# SPDX-License-Identifier: Apache-2.0
"""Tests that only otel/private.py uses private members of OpenTelemetry, its exporters, grpc, requests and urllib3."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.parallel, pytest.mark.unit]

ROOT = Path(__file__).resolve().parents[2]
PRIVATE = ROOT / "otel_epping/otel/private.py"
LIBRARIES = {"opentelemetry", "grpc", "requests", "urllib3"}
# The packages in BELOW use no objects of the libraries in LIBRARIES. tests/test_project.py checks the imports of the
# packages.
BELOW = ("kernel", "series", "events", "process")
# Documented members of NamedTuple, and the documented function os._exit().
PUBLIC = {"_asdict", "_exit", "_fields", "_make", "_replace"}
# Names of methods of the libraries. A subclass might override the methods.
OVERRIDABLE = {"_collect", "_export", "_new_conn", "_receive_metrics", "_set_collect_callback", "_translate_data"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("_") and name not in PUBLIC


def defined(tree: ast.Module) -> Iterator[str]:
    """Yield the names of the methods, and of the attributes that methods assign to `self`."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name


def uses(source: str) -> Iterator[str]:
    """Yield the private members of other objects that occur in a source.

    A source may read, write, import or override a private member, or name the member in getattr(). A class may use the
    private members of other objects of the same class, so names that the source itself defines are left out.
    """
    tree = ast.parse(source)
    own = set(defined(tree))
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                yield name
            case ast.Call(func=ast.Name(id="getattr" | "setattr" | "hasattr" | "delattr"), args=[_, *rest]):
                values = [each.value for each in rest[:1] if isinstance(each, ast.Constant)]
                yield from (value for value in values if isinstance(value, str) and is_private(value))
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in LIBRARIES:
                names = [*module.split("."), *(alias.name for alias in node.names)]
                yield from (name for name in names if is_private(name))
            case ast.Import(names=aliases):
                parts = [alias.name.split(".") for alias in aliases]
                yield from (name for first, *rest in parts if first in LIBRARIES for name in rest if is_private(name))
            case ast.FunctionDef(name=name) if name in OVERRIDABLE:
                yield name


def test_no_other_module_uses_a_private_member() -> None:
    package = ROOT / "otel_epping"
    modules = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] not in BELOW]
    files = {*modules, *(ROOT / "examples").rglob("*.py")} - {PRIVATE}
    assert len(files) > 40
    found = {str(path.relative_to(ROOT)): sorted(set(uses(path.read_text()))) for path in files}
    assert {path: names for path, names in found.items() if names} == {}


def test_uses_in_the_module_of_private_members_are_found() -> None:
    found = set(uses(PRIVATE.read_text()))
    assert {
        "_preferred_temporality",
        "_metric_readers",
        "_channel",
        "_client",
        "_new_conn",
        "_max_export_batch_size",
    } <= found


@pytest.mark.parametrize(
    "source",
    [
        "exporter._client.export(data)",
        "provider._sdk_config.resource",
        "reader._collect = collect",
        "self.exporter._channel.close()",
        "super()._new_conn()",
        "getattr(exporter, '_metrics', None)",
        "from opentelemetry.sdk.metrics._internal import Meter",
        "from opentelemetry.exporter.otlp.common.http import _OTLPHTTPClient",
        "import urllib3._collections",
        "class Own(HTTPConnection):\n    def _new_conn(self): ...",
    ],
)
def test_a_use_is_found(source: str) -> None:
    assert list(uses(source))


@pytest.mark.parametrize(
    "source", ["self._client", "cls._made", "row._replace(x=1)", "leaf._fields_", "from otel_epping.x import _y"]
)
def test_own_members_are_not_reported(source: str) -> None:
    assert list(uses(source)) == []
