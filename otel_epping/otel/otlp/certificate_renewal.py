# SPDX-License-Identifier: Apache-2.0
"""Detects certificates and keys that certbot, cert-manager or SPIFFE renew while the agent runs."""

import logging

from otel_epping.otel.variables.certificates import Certificates
from otel_epping.otel.variables.environment import Environment

_log = logging.getLogger(__name__)


class Renewal:
    """Detects certificate files that have changed and are valid.

    Ignores files as long as a key does not match its certificate.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self._used = self._seen = certificates.signature()

    def is_due(self) -> bool:
        """Returns true if the files are valid and have changed since the files were last used."""
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
        _log.info("certificates were renewed and are used from now on")
        for warning in environment.warnings:
            _log.warning("%s", warning)
        return True
