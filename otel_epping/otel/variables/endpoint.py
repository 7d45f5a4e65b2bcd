# SPDX-License-Identifier: Apache-2.0
"""Parses endpoints. An endpoint of OTLP/HTTP is a URL. An endpoint of OTLP/gRPC is a URL or any gRPC target.

Specification: protocol/exporter, "Endpoint" and "Endpoint URLs for OTLP/HTTP". gRPC targets:
https://github.com/grpc/grpc/blob/master/doc/naming.md
"""

import ipaddress
import re
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from otel_epping.otel.variables.environment import Environment, Variable

GRPC_PORT, HTTP_PORT = 4317, 4318
_PATH = "v1/metrics"
_PORTS = {"http": 80, "https": 443}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_TARGETS = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")
_MAX_PORT = 65535
_NO_ADDRESS = "where the brackets contain no IPv6 address: write, for example, http://[2001:db8::1]:4317"
_LOCAL = ("unix", "unix-abstract")  # Unix sockets are on the local host, so TLS is not the default


class Endpoint(NamedTuple):
    """The destination: a URL for OTLP/HTTP, a target for OTLP/gRPC.

    secure  true if TLS is used, false for plain text. None if OTEL_EXPORTER_OTLP_INSECURE decides
    local   true if the target is a socket of the local host, for which plain text is the default
    user    for OTLP/gRPC: the text "user:password" of the URL, because a gRPC target cannot contain this text. For
            OTLP/HTTP: empty, because the text stays in the URL
    """

    target: str
    secure: bool | None
    local: bool = False
    user: str = ""


def http_endpoint(environment: Environment, variable: Variable | None, *, of_signal: bool) -> Endpoint:
    """Returns the URL to which requests are posted.

    With `of_signal`, the variable is OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, and its path is not changed. Without
    `of_signal`, the variable is OTEL_EXPORTER_OTLP_ENDPOINT, and v1/metrics is appended to its path.
    """
    if not variable:
        return Endpoint(f"http://localhost:{HTTP_PORT}/{_PATH}", False)
    url = _url(environment, variable)
    if not url:
        return Endpoint("", False)
    path = url.path
    if not of_signal:
        path = f"{path.removesuffix('/')}/{_PATH}"
        if url.path.rstrip("/").endswith(f"/{_PATH}"):
            environment.warnings.append(
                f"{variable.name} ends with /{_PATH}, and /{_PATH} is appended to it: remove the path, "
                "or set OTEL_EXPORTER_OTLP_METRICS_ENDPOINT instead"
            )
    elif not url.path.strip("/"):
        environment.warnings.append(
            f"{variable.name} has no path, so / is used: if exports fail, append /{_PATH}, "
            "or set OTEL_EXPORTER_OTLP_ENDPOINT, to which the path is appended"
        )
    if url.port == GRPC_PORT:
        environment.warnings.append(
            f"{variable.name} has the port {GRPC_PORT} of OTLP/gRPC, but the protocol is http/protobuf: "
            f"if exports fail, set the port {HTTP_PORT}, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
        )
    query = f"?{url.query}" if url.query else ""
    return Endpoint(f"{url.scheme}://{url.netloc}{path or '/'}{query}", url.scheme == "https")


def grpc_endpoint(environment: Environment, variable: Variable | None) -> Endpoint:
    """Returns the target to which gRPC connects."""
    if not variable:
        return Endpoint(f"localhost:{GRPC_PORT}", False)
    found = _SCHEME.match(variable.value)
    scheme = found[1].lower() if found else ""
    if scheme in _TARGETS:
        if re.match("unix://[^/]", variable.value, re.IGNORECASE):
            environment.add_error(
                variable, f"which has no absolute path: write unix:///{variable.value[len('unix://') :]}"
            )
        return Endpoint(_zoned(variable.value), None, scheme in _LOCAL)
    if "://" not in variable.value:
        return _host_and_port(environment, variable)
    url = _url(environment, variable, others=_TARGETS)
    if not url:
        return Endpoint("", False)
    if url.path.strip("/") or url.query:
        environment.warnings.append(
            f"the path in {variable.name} has no effect with gRPC: to use HTTP, set the protocol to http/protobuf"
        )
    if url.port == HTTP_PORT:
        environment.warnings.append(
            f"{variable.name} has the port {HTTP_PORT} of OTLP/HTTP, but the protocol is grpc: "
            f"if exports fail, set the port {GRPC_PORT}, or set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
        )
    port = url.port or _PORTS[url.scheme]
    if not url.port:
        environment.warnings.append(_no_port(variable, port))
    host = url.netloc.rpartition("@")[2]
    user = "" if url.username is None else f"{unquote(url.username)}:{unquote(url.password or '')}"
    with suppress(UnicodeError):  # gRPC resolves ASCII names only
        host = host if host.isascii() else host.encode("idna").decode()
    return Endpoint(f"{_zoned(host).removesuffix(f':{url.port}')}:{port}", url.scheme == "https", user=user)


def _host_and_port(environment: Environment, variable: Variable) -> Endpoint:
    """Parses a target without a scheme. gRPC resolves such a target through DNS."""
    parsed = _url(environment, variable, prefix="//", others=_TARGETS)
    if not parsed:
        return Endpoint("", False)
    if not parsed.port:
        environment.warnings.append(_no_port(variable, _PORTS["https"]))
    return Endpoint(_zoned(parsed.netloc), None)


def _zoned(target: str) -> str:
    """Escapes a link-local address's zone (RFC 6874), because gRPC would read a zone "%a0" as an escaped byte."""
    return re.sub(r"(\[[^]%]*)%(?!25)", r"\1%25", target)


def _no_port(variable: Variable, port: int) -> str:
    return f"{variable.name} has no port, so {port} is used: receivers of OTLP/gRPC listen on {GRPC_PORT}"


def _url(
    environment: Environment, variable: Variable, prefix: str = "", others: tuple[str, ...] = ()
) -> SplitResult | None:
    """Splits a URL, and converts its scheme to lower case. Adds an error and returns None if the URL is invalid."""
    value = variable.value
    url = None
    try:
        url = urlsplit(prefix + value)
        why = _error(value, url, prefix, others)
    except ValueError:  # the brackets are not closed or contain no address
        why = _NO_ADDRESS if "]" in value else _brackets(value)
    if why:
        environment.add_error(variable, why)
        return None
    return url


def _error(value: str, url: SplitResult, prefix: str, others: tuple[str, ...]) -> str:
    """Returns the cause and the cure for an invalid URL, or an empty string for a valid URL.

    Raises ValueError for an unclosed bracket.
    """
    host = url.hostname or ""
    scheme = _SCHEME.match(value)
    if not others and scheme and scheme[1].lower() in _TARGETS:
        return "which is a gRPC target: write http:// or https://, or set OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
    if value.rpartition("://")[2].partition("/")[0].rpartition("@")[2].count(":") > 1 and "[" not in value:
        return _brackets(value)
    if not prefix and "://" not in value:
        return f"which has no scheme: write http://{value}, or https:// for TLS"
    if not prefix and url.scheme not in _PORTS:
        known = "http, https, or a gRPC scheme: " + ", ".join(others) if others else "http or https"
        # In 1x://host, urlsplit() of Python 3.10 finds the scheme 1x, and urlsplit() of later versions finds no scheme.
        return f"whose scheme {value.partition('://')[0].lower()!r} is not known: use {known}"
    if any(each.isspace() for each in value):
        return "which contains white space: remove it"
    literal = url.netloc.rpartition("@")[2]
    if not host:
        return f"which contains no host: write http://HOST:{GRPC_PORT}, or http://HOST:{HTTP_PORT} for http/protobuf"
    if literal.startswith("["):
        try:
            ipaddress.IPv6Address(host.replace("%25", "%", 1))
        except ValueError:
            return _NO_ADDRESS
    if not _is_port(literal.rpartition("]")[2].partition(":")):
        return "which has no valid port after its colon: write a number from 1 to 65535"
    if url.fragment:
        return "which has a fragment ('#'), and fragments are not sent: write %23, or remove the fragment"
    return ""


def _is_port(after_host: tuple[str, str, str]) -> bool:
    _, colon, port = after_host
    return not colon or (port.isdecimal() and port.isascii() and 0 < int(port) <= _MAX_PORT)


def _brackets(value: str) -> str:
    """Returns the cause and the cure for an IPv6 address without brackets. The text after the last colon may be a port.

    For example, 2001:db8::1:4317 may mean [2001:db8::1]:4317.
    """
    scheme, _, rest = value.rpartition("://")
    address, _, port = rest.partition("/")[0].rpartition(":")
    cure = "http://[2001:db8::1]:4317"
    with suppress(ValueError):
        cure = f"{scheme or 'http'}://[{ipaddress.IPv6Address(address)}]:{int(port)}"
    return f"where the IPv6 address is not in brackets: write {cure}"
