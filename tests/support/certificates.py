# SPDX-License-Identifier: Apache-2.0
"""Creates certificates and keys with the `openssl` command: a CA, and certificates that the CA issues."""

import shutil
import subprocess
import time
from pathlib import Path

# By default, Python 3.13 requires certificates with these extensions (ssl.VERIFY_X509_STRICT).
_CA = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
_NAMES = """subjectAltName=DNS:localhost,IP:127.0.0.1
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
"""
_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


def openssl(*arguments: str, folder: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)


class Authority:
    """A CA in a folder. NAME.pem is a certificate and NAME.key is its key; ca.pem and ca.key belong to the CA
    itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not self.pem.exists():
            openssl(
                "req", "-x509", *_CA, *_KEY, *("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca"), folder=folder
            )

    @property
    def pem(self) -> Path:
        return self.folder / "ca.pem"

    def copy_to(self, folder: Path) -> "Authority":
        """Copy all files. The returned CA can issue certificates under the same root."""
        shutil.copytree(self.folder, folder, dirs_exist_ok=True)
        return Authority(folder)

    def issue(self, name: str, days: int = 1) -> tuple[Path, Path]:
        """Issue a certificate for 127.0.0.1, and return the paths of the certificate and its key. If `days` is 0, the
        certificate has expired when this method returns.

        OpenSSL 3.5 does not accept a negative number of days. So if `days` is 0, this method waits until the
        certificate has expired.
        """
        (self.folder / "names").write_text(_NAMES)
        request = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
        openssl("req", "-new", *_KEY, *request, folder=self.folder)
        authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names"]
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", *authority, "-days", str(days), "-out", f"{name}.pem"),
            folder=self.folder,
        )
        if not days:
            time.sleep(1 - time.time() % 1)  # the certificate expires at the end of this second
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"
