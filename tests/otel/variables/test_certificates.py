# SPDX-License-Identifier: Apache-2.0
"""Tests the checks of certificates and keys before TLS uses them.

Each error names the variable, its value and the cure.
"""

import time
from pathlib import Path

import pytest

from otel_epping.errors import EppingError
from otel_epping.otel.variables import standard
from otel_epping.otel.variables.certificates import Certificates
from tests.support.certificates import Authority, openssl

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


CERTIFICATE, CLIENT, KEY = (
    f"OTEL_EXPORTER_OTLP_{each}" for each in ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with ca.pem, client.pem and client.key. The directory also contains several faulty files, each with
    one fault."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority(folder)
    authority.issue("client")
    authority.issue("other")
    authority.issue("expired", days=0)
    openssl("x509", "-in", "ca.pem", "-outform", "DER", "-out", "ca.der", folder=folder)
    openssl("pkey", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "encrypted.key", folder=folder)
    (folder / "both.pem").write_bytes((folder / "client.pem").read_bytes() + (folder / "client.key").read_bytes())
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    (folder / "cut.pem").write_bytes((folder / "ca.pem").read_bytes()[:200])
    (folder / "empty.pem").touch()
    (folder / "zero").symlink_to("/dev/zero")
    return folder


@pytest.fixture(params=["grpc", "http/protobuf"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(protocol: str, folder: Path, **files: str) -> standard.StandardVariables:
    names = {"ca": CERTIFICATE, "client": CLIENT, "key": KEY}
    variables = {names[name]: str(folder / file) for name, file in files.items()}
    endpoint = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1:4444"}
    return standard.read(variables | endpoint)


RIGHT: list[dict[str, str]] = [
    {},
    {"ca": "ca.pem"},
    {"client": "client.pem", "key": "client.key"},
    {"ca": "ca.pem", "client": "client.pem", "key": "client.key"},
    {"client": "both.pem"},
    {"client": "both.pem", "key": "client.key"},
]


@pytest.mark.parametrize("files", RIGHT, ids=str)
def test_valid_files_are_used(protocol: str, folder: Path, files: dict[str, str]) -> None:
    (otlp,) = read(protocol, folder, **files).otlp.values()
    trusted, key, client = otlp.certificates.read()
    assert (trusted is not None) == ("ca" in files)
    assert (client is not None) == (key is not None) == ("client" in files)


WRONG = [
    ({"ca": "nowhere.pem"}, CERTIFICATE, "cannot be read: No such file"),
    ({"ca": "."}, CERTIFICATE, "is not a regular file"),
    ({"ca": "zero"}, CERTIFICATE, "is not a regular file"),
    ({"ca": "ca.der"}, CERTIFICATE, "is in DER format: convert it to PEM format"),
    ({"ca": "empty.pem"}, CERTIFICATE, "contains no PEM data"),
    ({"ca": "broken.pem"}, CERTIFICATE, "contains no readable certificate"),
    ({"ca": "cut.pem"}, CERTIFICATE, "contains no readable certificate"),
    ({"ca": "client.key"}, CERTIFICATE, "contains no readable certificate"),
    ({"ca": "ca.pem", "key": "client.key"}, KEY, f"but {CLIENT} is not set: set both, or neither"),
    ({"client": "client.pem"}, CLIENT, f"but {KEY} is not set, and the file contains no key"),
    ({"client": "nowhere.pem", "key": "client.key"}, CLIENT, "cannot be read: No such file"),
    ({"client": "client.pem", "key": "nowhere.key"}, KEY, "cannot be read: No such file"),
    ({"client": "client.pem", "key": "other.key"}, KEY, "is not the key of the certificate"),
    ({"client": "client.pem", "key": "encrypted.key"}, KEY, "whose key is encrypted: decrypt it"),
    ({"client": "client.pem", "key": "ca.pem"}, KEY, "contains no key"),
    ({"client": "broken.pem", "key": "client.key"}, KEY, "cannot be loaded with its certificate"),
    ({"client": "client.key", "key": "client.pem"}, KEY, "contains no key"),
]


@pytest.mark.parametrize(("files", "name", "words"), WRONG, ids=str)
def test_invalid_files_are_errors_with_the_variable(
    protocol: str, folder: Path, files: dict[str, str], name: str, words: str
) -> None:
    with pytest.raises(EppingError) as failure:
        read(protocol, folder, **files)
    text = str(failure.value)
    assert text.startswith(f"{name} is '{folder}")
    assert words in text
    assert "\n" not in text


def test_the_variable_for_metrics_takes_precedence(folder: Path) -> None:
    with pytest.raises(EppingError, match="OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE is '/nowhere'"):
        standard.read(
            {
                "OTEL_EXPORTER_OTLP_ENDPOINT": "https://127.0.0.1",
                CERTIFICATE: str(folder / "ca.pem"),
                "OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE": "/nowhere",
            }
        )


def test_an_expired_certificate_is_a_warning_because_it_may_be_renewed(
    protocol: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (warning,) = read(protocol, folder, client="expired.pem", key="expired.key").warnings
    assert f"{CLIENT} expired at 20" in warning
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 365 * 24 * 3600)
    assert "check the clock" in read(protocol, folder, client="client.pem", key="client.key").warnings[0]


def test_without_tls_the_files_are_not_read(folder: Path) -> None:
    variables = standard.read(
        {CERTIFICATE: str(folder / "nowhere"), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    )
    assert [otlp.certificates for otlp in variables.otlp.values()] == [Certificates()]
