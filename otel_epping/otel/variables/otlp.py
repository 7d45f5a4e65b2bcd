# SPDX-License-Identifier: Apache-2.0
"""The settings of an OTLP exporter of metrics. A variable of the signal goes before the general one."""

from base64 import b64encode
from typing import NamedTuple

from otel_epping.otel.variables.certificates import Certificates
from otel_epping.otel.variables.endpoint import Endpoint, grpc_endpoint, http_endpoint
from otel_epping.otel.variables.environment import Environment, Variable
from otel_epping.otel.variables.headers import headers

GRPC, HTTP = "grpc", "http/protobuf"
# Greatest time for a request: an export that takes longer keeps the next one waiting for too long.
MAX_TIMEOUT_S = 300.0
_DEFAULT_TIMEOUT_S = 10.0
_COMPRESSIONS = {GRPC: ("none", "gzip"), HTTP: ("none", "gzip", "deflate")}


class Otlp(NamedTuple):
    """What an exporter is built from. `secure` holds for gRPC; over HTTP it is the scheme of the endpoint."""

    endpoint: str
    secure: bool
    headers: dict[str, str | bytes]
    compression: str
    timeout_s: float
    certificates: Certificates


def _names(option: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_METRICS_{option}", f"OTEL_EXPORTER_OTLP_{option}"


def read_protocol(environment: Environment) -> str:
    """`grpc`, the default as of any SDK in Python, or `http/protobuf`."""
    return environment.choice((GRPC, HTTP), *_names("PROTOCOL")) or GRPC


def read_otlp(environment: Environment, protocol: str) -> Otlp:
    """The settings of an exporter of this protocol."""
    specific, general = _names("ENDPOINT")
    variable = environment.text(specific, general)
    insecure = environment.boolean(*_names("INSECURE"))
    if protocol == GRPC:
        endpoint = grpc_endpoint(environment, variable)
    else:
        endpoint = http_endpoint(environment, variable, of_signal=bool(variable and variable.name == specific))
    certificates = Certificates(
        *(environment.text(*_names(each)) for each in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"))
    )
    secure = _is_secure(environment, variable, endpoint, insecure, certificates)
    if secure:
        certificates.check(environment)
    elif variable and any(certificates):
        unused = ", ".join(each.name for each in certificates if each)
        environment.warnings.append(f"{unused}: not used, for {variable.name} asks for no TLS: is https:// meant?")
    sent = environment.find(*_names("HEADERS"))
    parsed = headers(environment, sent, grpc=protocol == GRPC) if sent else {}
    if endpoint.user:  # as over HTTP (RFC 7617)
        parsed.setdefault("authorization", f"Basic {b64encode(endpoint.user.encode()).decode()}")
    return Otlp(
        endpoint.target,
        secure,
        parsed,
        environment.choice(_COMPRESSIONS[protocol], *_names("COMPRESSION")) or "none",
        _timeout_s(environment),
        certificates if secure else Certificates(),
    )


def _is_secure(
    environment: Environment,
    variable: Variable | None,
    endpoint: Endpoint,
    insecure: bool,
    certificates: Certificates,
) -> bool:
    """Whether TLS is used: as the endpoint says, else as OTEL_EXPORTER_OTLP_INSECURE says."""
    said = environment.find(*_names("INSECURE"))
    if endpoint.secure is not None:
        if said and insecure and endpoint.secure and variable:
            environment.warnings.append(f"{said.name}={said.value}: no effect, for {variable.name} asks for TLS")
        return endpoint.secure
    if said:
        return not insecure
    assert variable
    if endpoint.local and not any(certificates):
        return False
    if not any(certificates):
        environment.warnings.append(
            f"{variable.name} does not begin with http:// or https://, so TLS is used: for plain text, "
            "set OTEL_EXPORTER_OTLP_INSECURE=true"
        )
    return True


def _timeout_s(environment: Environment) -> float:
    """The time for a request with its retries.

    The specification means milliseconds, the SDK for Python takes seconds, as its users write them. A number above
    MAX_TIMEOUT_S can only be milliseconds.
    """
    variable = environment.text(*_names("TIMEOUT"))
    number = environment.milliseconds(variable) if variable else None
    if variable is None or number is None:
        return _DEFAULT_TIMEOUT_S
    if number == 0:  # no limit (specification, "Timeout"); but an export that never ends keeps all others waiting
        environment.warnings.append(f"{variable.name}=0: a request is given up after {MAX_TIMEOUT_S:g} s")
        return MAX_TIMEOUT_S
    if number <= MAX_TIMEOUT_S:
        return number
    seconds = number / 1e3
    limited = min(seconds, MAX_TIMEOUT_S)
    environment.warnings.append(
        f"{variable.name}={variable.value} is taken as milliseconds, {limited:g} s"
        + (", the greatest time for a request" if limited < seconds else "")
        + f" (up to {MAX_TIMEOUT_S:g}, a number is taken as seconds, as the SDK for Python does)"
    )
    return limited
