# SPDX-License-Identifier: Apache-2.0
"""Tests that the file of named networks is compared with the settings, before a kernel program is compiled."""

from pathlib import Path

import numpy as np
import pytest

from otel_epping.lab.namespaces import Namespace
from otel_epping.networks.network import PREFIX, Network, Networks
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from tests.support.command import epping, said
from tests.support.databases import GOOGLE, write_database

pytestmark = pytest.mark.parallel

TEXT = "cidr,name,site,plan\n10.1.0.0/28,Miller,north,gold\n10.2.0.0/28,Bakery,south,\n"
COMMANDS = (["run", "-i", "lo"], ["replay", "none.pcap"], ["cost", "none.pcap"])


@pytest.fixture
def path(public: Path) -> Path:
    path = public / "networks.csv"
    path.write_text(TEXT)
    return path


def test_a_tag_that_the_networks_do_not_have_is_refused_with_the_tags_that_they_have(ns: Namespace, path: Path) -> None:
    has = f"the networks of {path} have the tags site, plan"
    for command in COMMANDS:
        line = said(epping(ns, *command, "--networks", str(path), "--network-tags", "site,tower"))
        assert line == f"network_tags has the unknown tag tower: {has}"
        line = said(epping(ns, *command, "--networks", str(path), settings={"OTEL_EPPING_GROUP_BY": "city"}))
        assert line == (
            f"OTEL_EPPING_GROUP_BY: group_by is city, which is not a tag: {has}; other groups are subnet, name, asn, "
            "country"
        )
    path.write_text("cidr,name\n10.1.0.0/28,Miller\n")
    line = said(epping(ns, *COMMANDS[0], "--networks", str(path), "--group-by", "site"))
    assert f"the networks of {path} have no tags" in line


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_an_invalid_file_ends_a_command(ns: Namespace, path: Path, command: list[str]) -> None:
    path.write_text(TEXT + "10.3.0.1/24,Nobody\n")
    assert said(epping(ns, *command, "--networks", str(path))).startswith(f"{path}:4: ")
    assert said(epping(ns, *command, "--database", str(path))).startswith(f"{path} is not in MaxMind format")
    missing = path.with_name("missing.csv")
    assert said(epping(ns, *command, "--networks", str(missing))).startswith(f"{missing} does not exist")


def test_a_database_without_the_values_of_groups_is_refused(ns: Namespace, public: Path) -> None:
    database = write_database(public / "asn.mmdb", {"8.8.8.0/24": GOOGLE})
    wrong = ("--group-by", "country", "--database", database)
    refusal = (
        f"group_by is country, but {database} has no countries: set database to a file with countries, or group by"
    )
    for command in COMMANDS:
        assert said(epping(ns, *command, *wrong)).startswith(refusal)
    checked = epping(ns, "check", *wrong)
    assert checked.returncode == 1
    assert f"MISSING database       {refusal}" in checked.stdout
    assert epping(ns, "check", "--group-by", "asn", "--database", database).returncode == 0


def test_check_reads_the_files(ns: Namespace, path: Path) -> None:
    database = write_database(path.with_name("asn.mmdb"), {"8.8.8.0/24": GOOGLE})
    checked = epping(ns, "check", "--networks", str(path), "--database", database)
    assert checked.returncode == 0, checked.stdout
    assert "ok      networks       2 named networks with 2 prefixes: " in checked.stdout
    assert f"ok      database       {database}" in checked.stdout
    path.write_text(TEXT + "10.3.0.1/24,Nobody\n10.4.0.0/99,Nobody\n")
    Path(database).write_text("nonsense")
    checked = epping(ns, "check", "--networks", str(path), "--database", database)
    assert checked.returncode == 1
    failed = [line for line in checked.stdout.splitlines() if line.startswith("MISSING")]
    starts = [
        f"networks       {path}:4: ",
        f"networks       {path}:5: ",
        f"database       {database} is not in MaxMind",
    ]
    assert all(line.startswith(f"MISSING {start}") for line, start in zip(failed, starts, strict=True)), failed


@pytest.mark.unit
def test_limits_that_are_lower_than_the_number_of_networks_are_warned_of() -> None:
    networks = Networks(
        tuple(Network(str(number), (("site", str(number % 10)),)) for number in range(1000)), np.zeros(0, PREFIX)
    )
    file = "networks.csv"
    assert list(names.warnings(Settings(networks=file, max_series=1000), networks)) == []
    assert list(names.warnings(Settings(networks=file, max_series=0), networks)) == []
    (warning,) = names.warnings(Settings(networks=file), networks)
    assert warning.startswith("there are 1,000 named networks, but max_series is 500: ")
    assert "Set max_series to at least 1,000" in warning
    assert list(names.warnings(Settings(networks=file, group_by="site"), networks)) == []
    (warning,) = names.warnings(Settings(networks=file, group_by="site", max_series=5), networks)
    assert warning.startswith("there are 10 values of the tag site, but max_series is 5: ")
    assert list(names.warnings(Settings(networks=file, database=("x",), group_by="asn", max_series=5), networks)) == []
    attributes = {"rtt": ("subnet", "side"), "traffic": ("subnet", "name", "side", "direction")}
    (warning,) = names.warnings(Settings(networks=file, max_series=0, attributes=attributes), networks)
    assert warning.startswith("the attributes of group rtt have subnet, but not name: ")
    (warning,) = names.warnings(Settings(networks=file, max_series=0, max_subnets=999), networks)
    assert warning.startswith("there are 1,000 named networks, but max_subnets is 999: ")
