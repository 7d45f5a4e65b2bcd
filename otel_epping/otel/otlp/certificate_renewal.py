# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys that are renewed while the agent runs: certbot, cert-manager and SPIFFE replace the files."""

import logging

from otel_epping.otel.variables.certificates import Certificates
from otel_epping.otel.variables.environment import Environment

_log = logging.getLogger("otel_epping")


class Renewal:
    """Says when new files are to be used. Files that do not fit, as halfway through a renewal, are left alone."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self._used = self._seen = certificates.signature()

    def is_due(self) -> bool:
        """Whether the files have changed and can be used."""
        found = self.certificates.signature()
        if found == self._used:
            self._seen = found
            return False
        environment = Environment({})
        self.certificates.check(environment)
        if environment.errors:
            if found != self._seen:
                _log.warning("renewed certificates are not used yet: %s", "; ".join(environment.errors))
            self._seen = found
            return False
        self._used = self._seen = found
        _log.info("certificates were renewed, and are used from now on")
        for warning in environment.warnings:
            _log.warning("%s", warning)
        return True
