# SPDX-License-Identifier: Apache-2.0
"""Checks the files of certificates and keys before TLS uses the files, and again when the files have changed.

gRPC's C core aborts the process if a key has no certificate. The C core reports any other invalid file as a failed
handshake. So OpenSSL checks the files first, through the standard module `ssl`. OpenSSL also checks that a key matches
its certificate.
"""

import ssl
import stat
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from otel_epping.otel.variables.environment import Environment, Variable

_PEM_BEGIN = b"-----BEGIN "
_DER_SEQUENCE = 0x30  # X.690: a certificate in DER starts with a SEQUENCE
_UTC_TIME = 0x17
_EXPLICIT_0 = 0xA0  # tag of the field `version`, which X.509 version 1 certificates omit (RFC 5280, 4.1)


class _FileError(Exception):
    """A file is invalid.

    The exception's text (cause and cure) follows the variable's name and value in the error message.
    """


class Certificates(NamedTuple):
    """The files for TLS: trusted certificates, client certificate and client key. None means that no file is set."""

    trusted: Variable | None = None
    client: Variable | None = None
    key: Variable | None = None

    def check(self, environment: Environment) -> None:
        """Checks that the files are readable and valid, and that the key matches the certificate.

        Adds errors and warnings to the environment.
        """
        try:
            if self.trusted:
                _check_trusted(self.trusted.value)
        except _FileError as error:
            environment.add_error(self.trusted or Variable("", ""), str(error))
        if self.key and not self.client:
            other = self.key.name.replace("_KEY", "_CERTIFICATE")
            environment.add_error(self.key, f"but {other} is not set: set both, or neither")
        for variable in filter(None, (self.client, self.key)):
            try:
                _read(variable.value)
            except _FileError as error:
                environment.add_error(variable, str(error))
                return
        if self.client:
            self._check_pair(self.client, environment)
        for variable in filter(None, (self.trusted, self.client)):
            environment.warnings.extend(_dates(variable))

    def _check_pair(self, client: Variable, environment: Environment) -> None:
        key = self.key or client
        try:
            _check_pair(client.value, key.value)
        except _FileError as error:
            if self.key:
                environment.add_error(key, f"{error} (the certificate is {client.name}={client.value})")
            else:
                missing = client.name.replace("_CERTIFICATE", "_KEY")
                environment.add_error(
                    client, f"but {missing} is not set, and the file contains no key: set both, or neither"
                )

    def signature(self) -> tuple[tuple[int, int, int], ...]:
        """Returns inode, modification time and size of each file, which change when a file is replaced or written."""
        return tuple(_signature(variable.value) for variable in self if variable)

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """Reads the trusted certificates, client key and client certificate, in the order of gRPC's arguments.

        Raises OSError if a file cannot be read.
        """
        key = self.key or self.client
        trusted, private, client = (_contents(variable) for variable in (self.trusted, key, self.client))
        return trusted, private, client


def _contents(variable: Variable | None) -> bytes | None:
    return Path(variable.value).read_bytes() if variable else None


def _signature(path: str) -> tuple[int, int, int]:
    try:
        found = Path(path).stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _read(path: str) -> bytes:
    try:
        mode = Path(path).stat().st_mode
        content = Path(path).read_bytes() if stat.S_ISREG(mode) else b""
    except PermissionError as error:
        cure = "let the agent's user read it, because the agent has no capabilities"
        raise _FileError(f"which cannot be read: {error.strerror}: {cure}") from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise _FileError(f"which cannot be read: {cause}: set the path of a PEM file") from None
    if not stat.S_ISREG(mode):
        raise _FileError("which is not a regular file: set the path of a PEM file")
    if _PEM_BEGIN not in content:
        form = "is in DER format" if content[:1] == bytes([_DER_SEQUENCE]) else "contains no PEM data"
        raise _FileError(f"which {form}: convert it to PEM format with openssl")
    return content


def _check_trusted(path: str) -> None:
    _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _FileError(
            f"which contains no readable certificate ({_reason(error)}): set the path of a PEM file"
        ) from None


def _check_pair(certificate: str, key: str) -> None:
    def refuse() -> str:
        raise _FileError("whose key is encrypted: decrypt it with openssl pkey, and protect the file instead")

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, refuse)
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise _FileError("which is not the key of the certificate: set a certificate and its key") from None
        if b"PRIVATE KEY-----" not in _read(key):
            raise _FileError("which contains no key: set the path of the private key, a PEM file") from None
        cause = f"which cannot be loaded with its certificate ({_reason(error)}): create both again, in PEM format"
        raise _FileError(cause) from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error).replace("_", " ").lower()


def _dates(variable: Variable) -> Iterator[str]:
    """Yields a warning for a certificate that is not valid now.

    A certificate that is not valid now is not an error, because the certificate may be renewed later, or the clock may
    be wrong.
    """
    try:
        begins, ends = validity(ssl.PEM_cert_to_DER_cert(_first_certificate(_read(variable.value))))
    except (_FileError, ValueError, IndexError):
        return
    now = time.time()
    if now > ends:
        yield f"the certificate in {variable.name} expired at {_date(ends)}: renew it, and the file is read again"
    elif now < begins:
        yield f"the certificate in {variable.name} is not valid before {_date(begins)}: check the clock"


def _first_certificate(pem: bytes) -> str:
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    start = pem.index(begin)
    return pem[start : pem.index(end, start) + len(end)].decode("ascii", "replace")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat().replace("+00:00", "Z")


def validity(der: bytes) -> tuple[float, float]:
    """Returns notBefore and notAfter of a certificate as Unix times (RFC 5280, 4.1).

    Raises ValueError or IndexError if the certificate is invalid.
    """
    _, certificate, _ = _element(der)
    _, fields, _ = _element(certificate)
    tag, _, rest = _element(fields)
    for _ in range(3 if tag == _EXPLICIT_0 else 2):  # skips serial number (version 1: already read), signature, issuer
        _, _, rest = _element(rest)
    _, dates, _ = _element(rest)
    begin_tag, begin, dates = _element(dates)
    end_tag, end, _ = _element(dates)
    return _time(begin_tag, begin), _time(end_tag, end)


def _element(der: bytes) -> tuple[int, bytes, bytes]:
    """Returns the tag and the content of the first element in DER (X.690), and the bytes after the element."""
    length, at = der[1], 2
    if length & 0x80:
        at += length & 0x7F
        length = int.from_bytes(der[2:at], "big")
    return der[0], der[at : at + length], der[at + length :]


def _time(tag: int, content: bytes) -> float:
    form = "%y%m%d%H%M%SZ" if tag == _UTC_TIME else "%Y%m%d%H%M%SZ"
    return datetime.strptime(content.decode("ascii"), form).replace(tzinfo=timezone.utc).timestamp()
