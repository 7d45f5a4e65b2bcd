# SPDX-License-Identifier: Apache-2.0
"""Tests the standard variables in each form that the specification allows.

Each error names the variable, its value and the cure.
"""

import os
from collections.abc import Mapping

import pytest

from otel_epping.errors import EppingError
from otel_epping.otel.variables import standard
from otel_epping.otel.variables.otlp import MAX_TIMEOUT_S, Otlp
from otel_epping.otel.variables.standard import StandardVariables

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


ENDPOINT, METRICS_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
INSECURE, HEADERS, TIMEOUT = (f"OTEL_EXPORTER_OTLP_{each}" for each in ("INSECURE", "HEADERS", "TIMEOUT"))
ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
HTTP = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}


def only(read: StandardVariables) -> Otlp:
    (otlp,) = read.otlp.values()
    return otlp


def error(variables: Mapping[str, str]) -> str:
    with pytest.raises(EppingError) as failure:
        standard.read(variables)
    text = str(failure.value)
    assert "\n" not in text
    return text


# Endpoint -> (target, true if TLS is used)
TARGETS = {
    "": ("localhost:4317", False),
    "http://collector:4317": ("collector:4317", False),
    "https://collector:4317": ("collector:4317", True),
    "HTTPS://collector:4317/": ("collector:4317", True),
    "  http://collector:4317\n": ("collector:4317", False),
    "http://otel_collector:4317": ("otel_collector:4317", False),
    "http://10.0.0.1:4317/v1/metrics": ("10.0.0.1:4317", False),
    "http://[::1]:4317": ("[::1]:4317", False),
    "http://[fe80::1%25eth0]:4317": ("[fe80::1%25eth0]:4317", False),
    "http://[fe80::1%eth0]:4317": ("[fe80::1%25eth0]:4317", False),
    "http://[fe80::1%a0]:4317": ("[fe80::1%25a0]:4317", False),
    "http://collector": ("collector:80", False),
    "https://collector": ("collector:443", True),
    "http://kölner.example:4317": ("xn--klner-jua.example:4317", False),
    "http://me:secret@collector:4317": ("collector:4317", False),
    "collector:4317": ("collector:4317", True),
    "[::1]:4317": ("[::1]:4317", True),
    "collector": ("collector", True),
    "dns:///collector:4317": ("dns:///collector:4317", True),
    "dns://192.0.2.1/collector:4317": ("dns://192.0.2.1/collector:4317", True),
    "ipv4:10.0.0.1:4317,10.0.0.2:4317": ("ipv4:10.0.0.1:4317,10.0.0.2:4317", True),
    "unix:///run/otel.sock": ("unix:///run/otel.sock", False),
    "unix:/run/otel.sock": ("unix:/run/otel.sock", False),
    "unix-abstract:otel": ("unix-abstract:otel", False),
}


@pytest.mark.parametrize("endpoint", TARGETS)
def test_targets_of_grpc(endpoint: str) -> None:
    otlp = only(standard.read({ENDPOINT: endpoint, **GRPC}))
    assert (otlp.endpoint, otlp.secure) == TARGETS[endpoint]


@pytest.mark.parametrize("value", ["true", "TRUE", " True "])
def test_insecure_is_used_if_the_endpoint_has_no_scheme(value: str) -> None:
    for endpoint, secure in (("collector:1", False), ("dns:collector:1", False), ("https://collector:1", True)):
        assert only(standard.read({ENDPOINT: endpoint, INSECURE: value})).secure is secure
    for endpoint, secure in (("collector:1", True), ("unix:/run/x", True), ("http://collector:1", False)):
        assert only(standard.read({ENDPOINT: endpoint, INSECURE: "False"})).secure is secure


# Endpoint -> (URL if the endpoint is set for all signals, URL if the endpoint is set only for metrics)
URLS = {
    "": ("http://localhost:4318/v1/metrics",) * 2,
    "http://collector:4318": ("http://collector:4318/v1/metrics", "http://collector:4318/"),
    "http://collector:4318/": ("http://collector:4318/v1/metrics", "http://collector:4318/"),
    "HTTPS://collector:4318/otlp/": ("https://collector:4318/otlp/v1/metrics", "https://collector:4318/otlp/"),
    "http://collector/otlp": ("http://collector/otlp/v1/metrics", "http://collector/otlp"),
    "https://collector/otlp?a=1": ("https://collector/otlp/v1/metrics?a=1", "https://collector/otlp?a=1"),
    "http://c/v1/metrics": ("http://c/v1/metrics/v1/metrics", "http://c/v1/metrics"),
    "http://me:x@collector:1": ("http://me:x@collector:1/v1/metrics", "http://me:x@collector:1/"),
    " http://[::1]:4318\n": ("http://[::1]:4318/v1/metrics", "http://[::1]:4318/"),
}


@pytest.mark.parametrize("endpoint", URLS)
def test_urls_of_http(endpoint: str) -> None:
    of_all, of_metrics = URLS[endpoint]
    assert only(standard.read({ENDPOINT: endpoint, **HTTP})).endpoint == of_all
    assert only(standard.read({METRICS_ENDPOINT: endpoint, ENDPOINT: "", **HTTP})).endpoint == of_metrics
    assert only(standard.read({METRICS_ENDPOINT: " ", ENDPOINT: endpoint, **HTTP})).endpoint == of_all


# (protocol, endpoint) -> text that the error contains
ENDPOINT_ERRORS = {
    ("grpc", "http://::1:4317"): "not in brackets: write http://[::1]:4317",
    ("grpc", "2001:db8::1:4317"): "not in brackets: write http://[2001:db8::1]:4317",
    ("http", "http://::1:4318"): "not in brackets: write http://[::1]:4318",
    ("http", "http://[::1"): "not in brackets",
    ("grpc", "http://[::x]:4317"): "brackets contain no IPv6 address",
    ("http", "collector:4318"): "has no scheme: write http://collector:4318",
    ("http", "collector"): "has no scheme: write http://collector",
    ("http", "unix:///run/x"): "a gRPC target",
    ("http", "ftp://collector"): "scheme 'ftp' is not known: use http or https",
    ("grpc", "tcp://collector:4317"): "scheme 'tcp' is not known: use http, https",
    ("grpc", "://collector:4317"): "scheme '' is not known: use http, https",
    ("grpc", "1x://collector:4317"): "scheme '1x' is not known: use http, https",
    ("http", "://collector:4317"): "scheme '' is not known: use http or https",
    ("grpc", "unix://run/x"): "write unix:///run/x",
    ("grpc", '"http://collector:4317"'): "quotes around it: write http://collector:4317",
    ("http", "'http://collector:4318'"): "quotes around it: write http://collector:4318",
    ("grpc", "http://collector:99999"): "no valid port after its colon",
    ("http", "http://collector:4318x"): "no valid port after its colon",
    ("http", "http://collector:"): "no valid port after its colon",
    ("http", "http://:4318"): "contains no host",
    ("grpc", "http://"): "contains no host",
    ("http", "http://a b:4318"): "white space",
    ("http", "http://a:4318#b"): "fragment",
    ("http", "http://a:4318\x07"): "control characters",
    ("grpc", "http://caf\udce9:4317"): "not UTF-8",
}


@pytest.mark.parametrize(("protocol", "endpoint"), ENDPOINT_ERRORS)
def test_invalid_endpoints_are_errors(protocol: str, endpoint: str) -> None:
    for name in (ENDPOINT, METRICS_ENDPOINT):
        text = error({name: endpoint, **(GRPC if protocol == "grpc" else HTTP)})
        assert text.startswith(f"{name} is ")
        assert ENDPOINT_ERRORS[protocol, endpoint] in text


# (a wrong variable, text that the error contains). The error starts with the name of the variable.
ERRORS = [
    ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/json"}, "use grpc or http/protobuf"),
    ({INSECURE: "1"}, "neither true nor false"),
    ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}, "use none or gzip"),
    ({TIMEOUT: "10s"}, "write 10000"),
    ({TIMEOUT: "-1"}, "negative"),
    ({TIMEOUT: "inf"}, "not finite"),
    ({"OTEL_METRIC_EXPORT_INTERVAL": "1m"}, "write 60000"),
    ({"OTEL_METRIC_EXPORT_INTERVAL": "0"}, "below 1 millisecond"),
    ({"OTEL_METRIC_EXPORT_INTERVAL": "0.06"}, "below 1 millisecond"),
    ({"OTEL_METRIC_EXPORT_INTERVAL": "1e99"}, "over 86400000 milliseconds"),
    ({"OTEL_METRIC_EXPORT_TIMEOUT": "soon"}, "set a number of milliseconds"),
    ({"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "deltas"}, "use cumulative, delta or lowmemory"),
    ({"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "explicit"}, "use explicit_bucket_histogram or "),
    ({"OTEL_METRICS_EXEMPLAR_FILTER": "all"}, "use always_on, always_off or trace_based"),
    ({"OTEL_SDK_DISABLED": "yes"}, "neither true nor false"),
    ({"OTEL_METRICS_EXPORTER": "otlp,otlp"}, "twice"),
    ({"OTEL_METRICS_EXPORTER": "otlp,otlp_proto_grpc"}, "twice"),
    ({"OTEL_CONFIG_FILE": "/etc/otel.yaml"}, "unset it"),
    ({"OTEL_EXPERIMENTAL_CONFIG_FILE": "/etc/otel.yaml"}, "unset it"),
    ({"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS": "host,nosuch"}, "'nosuch' is not a resource detector"),
    ({ATTRIBUTES: "site=a,lab"}, "'lab' is not key=value"),
    ({ATTRIBUTES: "=a"}, "'=a' is not key=value"),
    ({ATTRIBUTES: "site=%FF"}, "'site' is not UTF-8"),
]


@pytest.mark.parametrize(("variables", "cure"), ERRORS)
def test_mistakes_are_named_with_their_cure(variables: dict[str, str], cure: str) -> None:
    ((name, _),) = variables.items()
    text = error(variables)
    assert text.startswith(f"{name} is ")
    assert cure in text


def test_all_mistakes_are_named_at_once() -> None:
    text = error(
        {TIMEOUT: "x", "OTEL_METRIC_EXPORT_INTERVAL": "y", "OTEL_METRICS_EXPORTER": "otlp_proto_grpc,otlp_proto_http"}
    )
    assert text.startswith("2 errors in OTEL_* variables: ")
    assert TIMEOUT in text
    assert "OTEL_METRIC_EXPORT_INTERVAL" in text


def test_a_port_of_prometheus() -> None:
    variables = {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": "tcp://10.0.0.1:9464"}
    assert error(variables).startswith("OTEL_EXPORTER_PROMETHEUS_PORT is 'tcp://10.0.0.1:9464', which is not a port")
    assert standard.read(variables | {"OTEL_EXPORTER_PROMETHEUS_PORT": "9464"}).exporters == ("prometheus",)


HEADER_VALUES: list[tuple[dict[str, str], str, dict[str, str | bytes]]] = [
    (GRPC, "Authorization=Bearer%20a%2Fb, x-scope=1,", {"authorization": "Bearer a/b", "x-scope": "1"}),
    (HTTP, "authorization=Basic dXNlcg==", {"authorization": "Basic dXNlcg=="}),
    (HTTP, "x-tenant=caf%C3%A9", {"x-tenant": "café".encode()}),
    (GRPC, "x-tenant-bin=caf%C3%A9", {"x-tenant-bin": "café".encode()}),
    (GRPC, "x-key=abc%0A", {"x-key": "abc"}),
    (HTTP, "x-key=100%", {"x-key": "100%"}),
    (HTTP, "x-key=", {"x-key": ""}),
]


@pytest.mark.parametrize(("protocol", "value", "headers"), HEADER_VALUES)
def test_headers(protocol: dict[str, str], value: str, headers: dict[str, str | bytes]) -> None:
    assert only(standard.read({HEADERS: value, **protocol})).headers == headers
    both = {HEADERS: "x-other=1", "OTEL_EXPORTER_OTLP_METRICS_HEADERS": value}
    assert only(standard.read({**both, **protocol})).headers == headers


def test_a_user_in_a_url_is_basic_authentication_over_grpc_too() -> None:
    variables = {ENDPOINT: "http://me:p%20w@collector:4317"}
    assert only(standard.read(variables)).headers == {"authorization": "Basic bWU6cCB3"}
    assert only(standard.read({**variables, HEADERS: "authorization=x"})).headers == {"authorization": "x"}
    assert only(standard.read({ENDPOINT: "http://me@collector:4317"})).headers == {"authorization": "Basic bWU6"}


@pytest.mark.parametrize(
    ("protocol", "value", "words"),
    [
        (HTTP, "x-key: s3cr3t", "entry 1"),
        (HTTP, "a=1,s3cr3t", "entry 2"),
        (HTTP, '"x-key=s3cr3t"', "entry 1"),
        (GRPC, "x key=s3cr3t", "entry 1"),
        (HTTP, "x-key=s3cr3t;p", "'x-key': its value has ';': write %3B"),
        (HTTP, 'x-key="s3cr3t"', "'x-key': its value has '\"': write %22"),
        (HTTP, "x-key=s3c%0Ar3t", "'x-key': its value has control characters"),
        (HTTP, "x-key=s3cr3t%FF", "'x-key': its value is not UTF-8"),
        (HTTP, "x-key=s3cr3t\udce9", "'x-key': its value is not UTF-8"),
        (GRPC, "x-key=s3cr3t%C3%A9", "'x-key': gRPC sends ASCII only"),
        (GRPC, "x!key=s3cr3t", "entry 1: gRPC allows only letters"),
        (GRPC, "s3c+ret==", "entry 1: gRPC allows only letters"),
        (HTTP, "Content-Type=s3cr3t", "'Content-Type': the exporter itself sets this header"),
        (GRPC, "grpc-timeout=s3cr3t", "'grpc-timeout': the exporter itself sets this header"),
    ],
)
def test_errors_for_invalid_headers_do_not_contain_the_value(protocol: dict[str, str], value: str, words: str) -> None:
    text = error({HEADERS: value, **protocol})
    assert text.startswith(f"{HEADERS} is invalid in ")
    assert words in text
    assert "s3c" not in text


@pytest.mark.parametrize(
    ("value", "seconds", "warns"),
    [
        ("", 10, False),
        ("10", 10, False),
        ("0.5", 0.5, False),
        ("300", 300, False),
        ("10000", 10, True),
        ("500", 0.5, True),
        ("10000000", MAX_TIMEOUT_S, True),
        ("0", MAX_TIMEOUT_S, True),
    ],
)
def test_a_large_timeout_is_taken_as_milliseconds(value: str, seconds: float, warns: bool) -> None:
    settings = standard.read({TIMEOUT: value})
    assert only(settings).timeout_s == seconds
    assert any(TIMEOUT in warning for warning in settings.warnings) is warns


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({ENDPOINT: "collector:4317"}, "so TLS is used"),
        ({ENDPOINT: "https://collector:4317", INSECURE: "true"}, "no effect"),
        ({ENDPOINT: "http://collector"}, "has no port, so 80 is used"),
        ({ENDPOINT: "http://collector:4318"}, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ({ENDPOINT: "http://collector:4317", **HTTP}, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        ({ENDPOINT: "http://collector:4317/v1/metrics"}, "no effect with gRPC"),
        ({ENDPOINT: "http://collector:4318/v1/metrics", **HTTP}, "ends with /v1/metrics"),
        ({METRICS_ENDPOINT: "http://collector:4318", **HTTP}, "has no path"),
        ({ENDPOINT: "http://collector:1", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/ca"}, "for TLS, write https://"),
    ],
)
def test_probable_mistakes_are_warnings(variables: dict[str, str], words: str) -> None:
    (warning,) = standard.read(variables).warnings
    assert words in warning


def test_values_are_case_insensitive_and_empty_ones_are_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for name in os.environ if name.startswith("OTEL_")]
    for name in names:
        monkeypatch.delenv(name)
    values = {
        "OTEL_METRICS_EXPORTER": "OTLP, console,none",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "Http/Protobuf",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "GZIP",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": " LowMemory",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "Explicit_Bucket_Histogram",
        "OTEL_METRIC_EXPORT_INTERVAL": " 1e3 ",
        "OTEL_METRIC_EXPORT_TIMEOUT": "0",
        "OTEL_METRICS_EXEMPLAR_FILTER": "",
        "OTEL_SDK_DISABLED": "FALSE",
        "OTEL_SERVICE_NAME": " mine ",
        ATTRIBUTES: " a=1, ,b=2=3,",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    settings = standard.read()
    assert settings.exporters == ("otlp_proto_http", "console")
    assert only(settings).compression == "gzip"
    assert (settings.interval_s, settings.explicit_buckets) == (1.0, True)
    settings.apply()
    assert os.environ["OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"] == "lowmemory"
    assert os.environ["OTEL_SERVICE_NAME"] == "mine"
    assert os.environ[ATTRIBUTES] == "a=1,b=2=3"
    assert "OTEL_METRICS_EXEMPLAR_FILTER" not in os.environ


def test_defaults() -> None:
    settings = standard.read({})
    assert settings.exporters == ("otlp_proto_grpc",)
    assert (settings.interval_s, settings.timeout_s, settings.explicit_buckets, settings.warnings) == (
        60,
        30,
        False,
        (),
    )
    assert only(settings)[:5] == ("localhost:4317", False, {}, "none", 10)
