# SPDX-License-Identifier: Apache-2.0
"""Tests of files of names in YAML."""

from pathlib import Path

import pytest
import yaml

from otel_epping.networks import files, yaml_file
from otel_epping.networks.network import Network, Networks
from tests.networks.support import error_of, names_by_prefix

pytestmark = [pytest.mark.parallel, pytest.mark.unit]


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test with libyaml and with the parser in Python."""
    monkeypatch.setattr(yaml_file, "_LOADER", getattr(yaml, request.param))


def read(folder: Path, text: str | bytes) -> Networks:
    path = folder / "names.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return files.read(str(path))


def error(folder: Path, text: str) -> str:
    path = folder / "names.yml"
    path.write_text(text)
    return error_of(path)


def test_a_network_has_a_name_tags_and_one_or_more_prefixes(tmp_path: Path) -> None:
    text = """
# customers
- cidr: 198.51.100.0/24
  name: "Miller, Inc."
  site: North
- name: Office
  Service-Plan: 100/20
  cidr:
    - 203.0.113.7
    - 2001:db8:1::/48
- {cidr: [10.0.0.0/8], name: Office, service-plan: 100/20}
"""
    networks = read(tmp_path, text)
    assert names_by_prefix(networks) == {
        "198.51.100.0/24": "Miller, Inc.",
        "203.0.113.7/32": "Office",
        "2001:db8:1::/48": "Office",
        "10.0.0.0/8": "Office",
    }
    assert networks.tags == ("site", "service_plan")
    assert networks.networks == (
        Network("Miller, Inc.", (("site", "North"),)),
        Network("Office", (("service_plan", "100/20"),)),
    )


@pytest.mark.parametrize("name", ["1234", "no", "1:30", "0x10", "1_000", "2001-01-01", "1e3", "=", "'null'", "'~'"])
def test_values_are_read_as_text(tmp_path: Path, name: str) -> None:
    networks = read(tmp_path, f"- cidr: 10.0.0.0/8\n  name: {name}\n  plan: {name}\n  site: ~\n  tower:\n")
    text = name.strip("'")
    assert networks.networks == (Network(text, (("plan", text),)),)


def test_json_is_yaml(tmp_path: Path) -> None:
    networks = read(tmp_path, '[{"cidr": "10.0.0.0/8", "name": "A\\u00e9"}]'.encode("utf-16"))
    assert names_by_prefix(networks) == {"10.0.0.0/8": "Aé"}


ONE = "write each network as - {cidr: 198.51.100.0/24, name: Office}"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("  cidr: 10.0.0.1/8", "3: bits after the prefix are set in '10.0.0.1/8': did you mean 10.0.0.0/8?"),
        (
            "  cidr: [10.0.0.0/8,\n  x]",
            "4: 'x' is not a prefix: write a prefix, such as 198.51.100.0/24 or 2001:db8::/32",
        ),
        ("  site: North", "2: the prefix (cidr) is missing: write - {cidr: 198.51.100.0/24, name: Office}"),
        ("  cidr: []", "2: the prefix (cidr) is missing: write - {cidr: 198.51.100.0/24, name: Office}"),
        ("  cidr: 10.0.0.0/8\n  name: B", "2: the key name occurs twice: keep one of the two"),
        ("  cidr: 10.0.0.0/8\n  site: A\n  Site: A", "2: the key site occurs twice: keep one of the two"),
        ("  cidr: 10.0.0.0/8\n  site: [A, B]", "2: the key site has more than one value: write a single value"),
        ("  cidr: {10.0.0.0/8: A}", "2: the key cidr has more than one value: write a single value"),
        ("  cidr: [[10.0.0.0/8]]", "2: the value of cidr has more than one value: write a single value"),
        ("  cidr: 10.0.0.0/8\n  ? [a]\n  : b", "2: the key has more than one value: write a single value"),
        ("  cidr: &a 10.0.0.0/8\n  site: *a", "2: the value of site is an alias: write the value itself"),
        (
            "  country: NL",
            "2: country cannot be a tag, because --group-by country has another meaning: rename it, for example to "
            "own_country",
        ),
        ('  cidr: 10.0.0.0/8\n  site: "\\e[2J"', r"3: site '\x1b[2J' contains control characters: remove them"),
        ("- name", f"3: this is not a network: {ONE}"),
        ("- [10.0.0.0/8, A]", f"3: this is not a network: {ONE}"),
    ],
)
def test_the_error_of_an_item_has_the_file_the_line_the_cause_and_the_cure(
    tmp_path: Path, item: str, message: str
) -> None:
    first = "- {cidr: 10.0.0.0/8, name: A}" if item.startswith("-") else "- name: A"
    text = f"# names\n{first}\n{item}\n"
    assert error(tmp_path, text) == f"names.yml:{message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: b", f":1: this is not a list of networks: {ONE}"),
        ("# a\nb", f":2: this is not a list of networks: {ONE}"),
        ("# a\n", " names no network: add a line with a prefix and a name"),
        ("[]", " names no network: add a line with a prefix and a name"),
        ("--- ~", " names no network: add a line with a prefix and a name"),
        ("- cidr: 10.0.0.0/8\n", ":1: the name is missing: add a name after the prefix"),
        (
            "- {cidr: 10.0.0.0/8, name: A}\n---\n- {cidr: 10.0.0.0/8, name: A}\n",
            ":2: a second YAML document starts here: write one list",
        ),
        ("- {cidr: 10.0.0.0/8, name: A\n", ":2: this is not YAML: "),
        ("- cidr: 10.0.0.0/8\n\tname: A\n", ":2: this is not YAML: "),
        ("[" * 1_000, ":"),
        ("- cidr: 10.0.0.0/8\n  name: \x01\n", ": this is not YAML: "),
    ],
)
def test_the_error_of_a_file_has_the_cure(tmp_path: Path, text: str, message: str) -> None:
    assert error(tmp_path, text).startswith(f"names.yml{message}")


def test_five_items_with_errors_are_listed_and_the_others_are_counted(tmp_path: Path) -> None:
    found = error(tmp_path, "- name: A\n" * 8).splitlines()
    assert [line.partition(" ")[0] for line in found] == [f"names.yml:{line}:" for line in range(1, 6)] + ["names.yml:"]
    assert found[-1] == "names.yml: 3 more lines have errors"
