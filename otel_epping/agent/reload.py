# SPDX-License-Identifier: Apache-2.0
"""Reads the settings file and the file of names again after SIGHUP, and applies the changes."""

import logging
from collections.abc import Callable
from dataclasses import replace

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.interface_monitor import InterfaceMonitor
from otel_epping.kernel.collector import EppingCollector
from otel_epping.networks.follower import FilesFollower
from otel_epping.series.limits import Limits
from otel_epping.settings.definitions import DEFINITIONS
from otel_epping.settings.model import INTERFACE_SETTINGS, Settings

_log = logging.getLogger(__name__)

_NO_DUPLICATE_DETECTION = (
    "the kernel program was loaded without a mirror port: if a mirror port receives a packet twice, the program counts "
    "the second copy as a retransmission. To detect duplicate packets, restart the agent"
)


class Reloader:
    """Holds the settings in effect, and applies new settings.

    `reread` reads the settings file again, and returns the resulting settings. `reread` raises EppingError if the file
    is invalid. `change_limits` sets the limits on series for all exporters. `files` follows the file of names.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[Settings], Settings],
        interfaces: InterfaceMonitor,
        collector: EppingCollector,
        change_limits: Callable[[Limits], None],
        files: FilesFollower,
    ) -> None:
        self._change_limits, self._files = change_limits, files
        self._settings, self._reread, self._interfaces, self._collector = settings, reread, interfaces, collector
        self._needs_restart = {each.field for each in DEFINITIONS if not each.spec.reloadable}

    def reload(self, done: Callable[[], None]) -> None:
        """Applies the changes that do not need a restart. Logs the changes that need a restart.

        If the settings file is invalid, logs an error and changes nothing. A thread reads the named networks again.
        When all changes are applied, calls `done`, in this thread or in the other thread.
        """
        try:
            new = self._reread(self._settings)
            if not new.selection.all:
                raise EppingError("no interface is selected: set interface, lan or mirror")
        except EppingError as error:
            _log.error("the settings are unchanged: %s", error)
            done()
            return
        self._apply(new)
        if self._settings.networks:
            self._files.reload(self._settings.networks, done)
        else:
            done()

    def _apply(self, new: Settings) -> None:
        changed = [each for each in DEFINITIONS if getattr(new, each.field) != getattr(self._settings, each.field)]
        needs_restart = self._needs_restart
        if not (new.networks and self._settings.networks):  # a loaded program cannot start or stop using names
            needs_restart = {*needs_restart, "networks"}
        ignored = [each.key for each in changed if each.field in needs_restart]
        if ignored:
            _log.warning(
                "these settings changed, and take effect after a restart: %s",
                ", ".join(ignored),
                extra={"keys": ignored},
            )
        applied = [each for each in changed if each.field not in needs_restart]
        keys = [each.key for each in applied]
        _log.info("settings reloaded; changes applied: %s", ", ".join(keys) or "none", extra={"keys": keys})
        values = {each.field: getattr(new, each.field) for each in applied}
        old, self._settings = self._settings, replace(self._settings, **values)
        logging.getLogger().setLevel(self._settings.log_level.upper())
        if self._settings.selection != old.selection:
            self._select_interfaces(old)
        self._collector.change_idle_timeout(self._settings.idle_timeout_ns)
        self._change_limits(self._settings.limits)

    def _select_interfaces(self, old: Settings) -> None:
        """Watches the interfaces that the new settings select.

        If the agent cannot watch the new selection, it keeps the old selection.
        """
        try:
            self._interfaces.select(self._settings.selection)
        except EppingError as error:
            _log.error("the selection of interfaces is unchanged: %s", error)
            self._settings = replace(self._settings, **{each: getattr(old, each) for each in INTERFACE_SETTINGS})
        if self._settings.kernel.copies and not self._collector.config.copies:
            _log.warning("%s", _NO_DUPLICATE_DETECTION)
