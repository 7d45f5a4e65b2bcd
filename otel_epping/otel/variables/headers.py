# SPDX-License-Identifier: Apache-2.0
"""Parses lists of headers and checks lists of resource attributes.

Each list has entries of the form `name=value`, percent-encoded as in W3C Baggage.

The value of a header may be secret. So an error message contains the name of the header or the position of the entry,
but never the value.
"""

import re
from urllib.parse import quote, unquote_to_bytes

from otel_epping.otel.variables.environment import Environment, Variable
from otel_epping.process.redaction import TOKEN

_NAME = re.compile(TOKEN, re.ASCII)
_GRPC_NAME = re.compile(r"[a-z0-9_.-]+")  # gRPC over HTTP/2, "Custom-Metadata"
_NEVER = '";\\'  # not allowed in a "baggage-octet" (W3C Baggage), like the comma, which separates entries
# The exporter itself sets the headers in _RESERVED. With other values, a request would not be an OTLP request.
_RESERVED = {"content-type", "content-encoding", "content-length", "transfer-encoding", "connection", "te"}


def headers(environment: Environment, variable: Variable, *, grpc: bool) -> dict[str, str | bytes]:
    """Parses headers. Converts names to lower case. A value is text, or bytes if the transport requires bytes."""
    found: dict[str, str | bytes] = {}
    for place, entry in enumerate(variable.value.split(","), 1):
        if not entry.strip():
            continue
        name, equals, value = (part.strip() for part in entry.partition("="))
        # If the name is invalid, as in "Authorization: Basic ...", the whole entry may be secret.
        if not equals or not _NAME.fullmatch(name):
            why = f"is invalid in entry {place}, which does not start with a header's name and '=': write name=value"
            environment.add_error(variable, f"{why}, without quotes, and %2C for a comma in a value", secret=True)
            continue
        if grpc and not _GRPC_NAME.fullmatch(name.lower()):  # `name` may also be a secret
            why = f"is invalid in entry {place}: gRPC allows only letters, digits, '_', '.', '-': use http/protobuf"
            environment.add_error(variable, why, secret=True)
            continue
        if why := _name_error(name.lower(), grpc) or _value_error(value):
            environment.add_error(variable, f"is invalid in the header {name!r}: {why}", secret=True)
            continue
        decoded = unquote_to_bytes(value.encode("utf-8", "surrogateescape")).strip()
        if grpc and name.lower().endswith("-bin"):
            found[name.lower()] = decoded
        elif why := _text_error(decoded, grpc):
            environment.add_error(variable, f"is invalid in the header {name!r}: {why}", secret=True)
        else:
            found[name.lower()] = decoded.decode() if decoded.isascii() else decoded
    return found


def _text_error(decoded: bytes, grpc: bool) -> str:
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        return "its value is not UTF-8: encode it in UTF-8"
    if any(not each.isprintable() and each != "\t" for each in text):
        return "its value has control characters: remove them"
    if grpc and not text.isascii():
        return "gRPC sends ASCII only: use http/protobuf, or a name that ends in -bin"
    return ""


def _name_error(name: str, grpc: bool) -> str:
    if name in _RESERVED or (grpc and name.startswith("grpc-")):
        return "the exporter itself sets this header: remove it"
    return ""


def _value_error(value: str) -> str:
    if found := [each for each in _NEVER if each in value]:
        return f"its value has {found[0]!r}: write {quote(found[0])}"
    return ""


def check_attributes(environment: Environment, name: str) -> None:
    """Checks a list of resource attributes. The canonical value is the list without empty entries."""
    if not (variable := environment.text(name, is_name=True)):
        environment.canonical[name] = None
        return
    entries = [entry.strip() for entry in variable.value.split(",") if entry.strip()]
    for entry in entries:
        key, equals, value = (part.strip() for part in entry.partition("="))
        if not equals or not key:
            environment.add_error(variable, f"where {entry!r} is not key=value: write %2C for a comma in a value")
            continue
        try:
            unquote_to_bytes(value).decode()
        except UnicodeDecodeError:
            environment.add_error(variable, f"where {key!r} is not UTF-8: encode it in UTF-8")
    environment.canonical[name] = ",".join(entries)
