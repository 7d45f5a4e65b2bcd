# SPDX-License-Identifier: Apache-2.0
"""Runs the agent as a systemd service.

The service is ready when the agent counts packets. If the agent hangs, the watchdog kills the agent. systemd stops the
service in an orderly way.
"""

import sys
from pathlib import Path

from tests.support.systemd_namespace import HELD, NOTHING_HELD, under_systemd
from tests.support.unprivileged import NOBODY_UID

ROOT = Path(__file__).resolve().parents[2]

UNIT = f"""
[Unit]
DefaultDependencies=no
[Service]
Type=notify
WatchdogSec=2
WatchdogSignal=KILL
User={NOBODY_UID}
AmbientCapabilities=CAP_BPF CAP_NET_ADMIN CAP_PERFMON
BindReadOnlyPaths={ROOT}:/mnt {Path(sys.prefix).resolve()}:/srv
WorkingDirectory=/mnt
Environment=OTEL_METRICS_EXPORTER=console
ExecStart=/srv/bin/python -m otel_epping run -i lo --interval 200ms --log-format json
StandardOutput=null
StandardError=file:{{log}}
"""
SCRIPT = f"""{HELD}
show() {{ echo "-- $1"; systemctl show -p ActiveState,SubState,Result,StatusText,NRestarts epping; }}
systemctl start epping
grep -c watching {{log}}
show ready
echo "-- held"
held epping
sleep 3
show guarded
kill -STOP $(systemctl show -p MainPID --value epping)
for i in $(seq 100); do systemctl --quiet is-failed epping && break; sleep 0.1; done
show frozen
systemctl reset-failed epping
systemctl start epping
systemctl stop epping
show stopped
"""


def test_start_watchdog_and_stop(tmp_path: Path) -> None:
    log = tmp_path / "log"
    output = under_systemd(tmp_path, UNIT.format(log=log), SCRIPT.replace("{log}", str(log)), 40)
    first, *parts = output.split("-- ")
    held = parts.pop(1).splitlines()
    states = {name: dict(line.split("=", 1) for line in lines) for name, *lines in map(str.splitlines, parts)}
    assert first.split() == ["1"], "systemctl start returned after the agent had logged that it watches the interface"
    assert states["ready"]["ActiveState"] == "active"
    assert states["ready"]["StatusText"].startswith("watching lo; ")
    assert set(held[1:]) == NOTHING_HELD | {f"Uid={NOBODY_UID}"}
    assert states["guarded"]["ActiveState"] == "active", "the agent survives the time limit of the watchdog"
    assert (states["frozen"]["ActiveState"], states["frozen"]["Result"]) == ("failed", "watchdog")
    assert (states["stopped"]["ActiveState"], states["stopped"]["Result"]) == ("inactive", "success")
    assert "exporting the last interval" in log.read_text()
