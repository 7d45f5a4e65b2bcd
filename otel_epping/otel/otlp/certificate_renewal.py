# SPDX-License-Identifier: Apache-2.0
"""Detects certificates and keys that are renewed while the agent runs, as by certbot, cert-manager or SPIFFE."""

import logging

from otel_epping.otel.variables.certificates import Certificates
from otel_epping.otel.variables.environment import Environment

_log = logging.getLogger(__name__)


class Renewal:
    """Reports when the files have changed and are valid. Files that do not match yet, during a renewal, are ignored."""

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self._used = self._seen = certificates.signature()

    def is_due(self) -> bool:
        """Returns whether the files have changed and can be used."""
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
