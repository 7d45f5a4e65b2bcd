# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys for tests, made by the `openssl` command: a CA of one's own, and who it vouches for."""

import subprocess
import time
from pathlib import Path

# What Python 3.13 asks for by default (ssl.VERIFY_X509_STRICT).
_CA = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
_NAMES = """subjectAltName=DNS:localhost,IP:127.0.0.1
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


class Authority:
    """A CA, in a folder: NAME.pem is a certificate, NAME.key its key; those of the CA are ca.pem and ca.key."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.name = name
        openssl(
            "req",
            "-x509",
            *_CA,
            *_KEY,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
            "-subj",
            f"/CN={name}",
            folder=folder,
        )

    @property
    def pem(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def issue(self, name: str, days: int = 1) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, and its key. With 0 days it has expired (OpenSSL 3.5 takes no less)."""
        (self.folder / "names").write_text(_NAMES)
        openssl(
            "req",
            "-new",
            *_KEY,
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
            folder=self.folder,
        )
        authority = ["-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key", "-CAcreateserial", "-extfile", "names"]
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", *authority, "-days", str(days), "-out", f"{name}.pem"),
            folder=self.folder,
        )
        if not days:
            time.sleep(1.1)  # ends with this second
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"
