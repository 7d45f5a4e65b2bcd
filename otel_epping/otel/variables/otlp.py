# SPDX-License-Identifier: Apache-2.0
"""Reads the settings of an OTLP metric exporter.

The signal's variables, OTEL_EXPORTER_OTLP_METRICS_*, take precedence over the general variables, OTEL_EXPORTER_OTLP_*.
"""

from base64 import b64encode
from typing import NamedTuple

from otel_epping.otel.variables.certificates import Certificates
from otel_epping.otel.variables.endpoint import Endpoint, grpc_endpoint, http_endpoint
from otel_epping.otel.variables.environment import Environment, Variable
from otel_epping.otel.variables.headers import headers

GRPC, HTTP = "grpc", "http/protobuf"
# Maximum timeout of a request. A request that takes longer would delay the next export too much.
MAX_TIMEOUT_S = 300.0
_DEFAULT_TIMEOUT_S = 10.0
_COMPRESSIONS = {GRPC: ("none", "gzip"), HTTP: ("none", "gzip", "deflate")}


class Otlp(NamedTuple):
    """The settings of an exporter. `secure` turns on TLS for gRPC. For HTTP, the endpoint's scheme turns on TLS."""

    endpoint: str
    secure: bool
    headers: dict[str, str | bytes]
    compression: str
    timeout_s: float
    certificates: Certificates


def _names(option: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_METRICS_{option}", f"OTEL_EXPORTER_OTLP_{option}"


def read_protocol(environment: Environment) -> str:
    """Returns `grpc` or `http/protobuf`. The default is `grpc`, as in the SDK for Python."""
    return environment.choice((GRPC, HTTP), *_names("PROTOCOL")) or GRPC


def read_otlp(environment: Environment, protocol: str) -> Otlp:
    """Reads the settings of the exporter for `protocol`."""
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
        environment.warnings.append(
            f"{unused}: no effect, because {variable.name} does not use TLS: for TLS, write https://"
        )
    sent = environment.find(*_names("HEADERS"))
    parsed = headers(environment, sent, grpc=protocol == GRPC) if sent else {}
    if endpoint.user:  # sends user name and password in a header, as HTTP clients do (RFC 7617)
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
    """Returns whether to use TLS. For an endpoint without http:// or https://, OTEL_EXPORTER_OTLP_INSECURE decides."""
    configured = environment.find(*_names("INSECURE"))
    if endpoint.secure is not None:
        if configured and insecure and endpoint.secure and variable:
            environment.warnings.append(
                f"{configured.name}={configured.value}: no effect, because {variable.name} requires TLS"
            )
        return endpoint.secure
    if configured:
        return not insecure
    assert variable
    if endpoint.local and not any(certificates):
        return False
    if not any(certificates):
        environment.warnings.append(
            f"{variable.name} does not start with http:// or https://, so TLS is used: for plain text, "
            "set OTEL_EXPORTER_OTLP_INSECURE=true"
        )
    return True


def _timeout_s(environment: Environment) -> float:
    """Returns the timeout of a request, including its retries.

    The specification defines milliseconds, but the SDK for Python reads seconds, and users of this SDK write seconds.
    So a number up to MAX_TIMEOUT_S is read as seconds, and a larger number is read as milliseconds.
    """
    variable = environment.text(*_names("TIMEOUT"))
    number = environment.milliseconds(variable) if variable else None
    if variable is None or number is None:
        return _DEFAULT_TIMEOUT_S
    if number == 0:  # 0 means no limit (specification, "Timeout"), but an endless export would block later exports
        environment.warnings.append(f"{variable.name}=0: a request still times out after {MAX_TIMEOUT_S:g} s")
        return MAX_TIMEOUT_S
    if number <= MAX_TIMEOUT_S:
        return number
    seconds = number / 1e3
    limited = min(seconds, MAX_TIMEOUT_S)
    environment.warnings.append(
        f"{variable.name}={variable.value} is read as milliseconds, {limited:g} s"
        + (", the maximum time for a request" if limited < seconds else "")
        + f" (a number up to {MAX_TIMEOUT_S:g} is read as seconds, as in the SDK for Python)"
    )
    return limited
