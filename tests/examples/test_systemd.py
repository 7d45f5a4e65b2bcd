# SPDX-License-Identifier: Apache-2.0
"""Tests the unit of examples/systemd with systemd.

The unit is well-formed and hardened, and the agent works in the unit.
"""

import re
import subprocess
import sys
from pathlib import Path

from tests.support.systemd_namespace import HELD, NOTHING_HELD, under_systemd

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "examples" / "systemd" / "otel-epping@.service"
NAME = UNIT.name
# systemd-analyze rates the exposure of a unit from 0 to 10. A unit without any hardening has a rating of 10. The unit
# of otel-epping had a rating of 1.9 with systemd 252. The rating is above 0 because the agent must watch the host's
# network, and needs three capabilities.
GREATEST_EXPOSURE = 2.0


def _analyze(*arguments: str) -> str:
    analyzed = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True)
    assert analyzed.returncode == 0, analyzed.stdout + analyzed.stderr
    assert not analyzed.stderr
    return analyzed.stdout


def test_it_is_well_formed(tmp_path: Path) -> None:
    copy = tmp_path / NAME
    copy.write_text(UNIT.read_text().replace("/opt/otel-epping/bin/otel-epping", "/bin/true"))
    _analyze("verify", "--man=no", "--recursive-errors=no", str(copy))


def test_it_is_hardened() -> None:
    output = _analyze("security", "--offline=true", "--no-pager", str(UNIT))
    (exposure,) = re.findall(r"Overall exposure level for .*: ([\d.]+)", output)
    assert float(exposure) <= GREATEST_EXPOSURE, output


def test_the_agent_works_under_it(tmp_path: Path, public: Path) -> None:
    """The agent also reads a file of named networks, and notices that the file is replaced."""
    log, names = tmp_path / "log", public / "networks.csv"
    names.write_text("cidr,name\n10.1.0.0/28,Miller\n")
    unit = UNIT.read_text().replace("/opt/otel-epping/bin/otel-epping", f"{sys.executable} -m otel_epping")
    # In this test, the agent is not installed: it runs from this repository. The test does not wait for the network.
    here = f"""[Service]
BindReadOnlyPaths={ROOT} {Path(sys.prefix).resolve()} {public}
Environment=OTEL_EPPING_NETWORKS={names}
Environment=PYTHONPATH={ROOT} OTEL_METRICS_EXPORTER=console
StandardOutput=null
StandardError=file:{log}
"""
    unit = unit.replace("[Service]\n", here).replace("[Unit]\n", "[Unit]\nDefaultDependencies=no\n")
    unit = re.sub(r"^(Wants|After)=.*\n", "", unit, flags=re.MULTILINE)
    (tmp_path / NAME).write_text(unit)
    script = f"""{HELD}
    systemctl start otel-epping@lo
    systemctl show -p ActiveState,StatusText otel-epping@lo
    held otel-epping@lo
    echo 10.2.0.0/28,Bakery | cat {names} - > {names}.new
    mv {names}.new {names}
    for i in $(seq 200); do grep -q Bakery {names} && grep -q "read {names} again" {log} && break; sleep 0.1; done
    systemctl stop otel-epping@lo
    systemctl show -p Result otel-epping@lo
    """
    output = under_systemd(tmp_path, unit, script, 60)
    text = log.read_text() if log.exists() else ""
    assert "ActiveState=active\n" in output, output + text
    assert "StatusText=watching lo; " in output
    held = {line for line in output.splitlines() if line.startswith(("Cap", "NoNewPrivs", "Uid"))}
    (uid,) = held - NOTHING_HELD
    assert held >= NOTHING_HELD
    assert uid != "Uid=0"
    assert output.endswith("Result=success\n"), output + text
    assert "exporting the last interval" in text
    assert f"read {names} again" in text
    assert "2 named networks with 2 prefixes (new: 1, ended: 0)" in text
