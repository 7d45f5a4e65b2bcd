# SPDX-License-Identifier: Apache-2.0
"""Tests the table of settings.

The tests check the values, the sources of the values, and the errors. The settings are in flags, in variables and in
the configuration file.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from otel_epping.errors import EppingError
from otel_epping.kernel.config import EppingConfig
from otel_epping.lab.namespaces import Namespace
from otel_epping.otel.metric_selection import MetricSelection
from otel_epping.series.limits import Limits
from otel_epping.settings import file
from otel_epping.settings.definitions import DEFINITIONS
from otel_epping.settings.model import Settings
from scripts import settings_page
from tests.support.command import COMMAND, epping, said

pytestmark = pytest.mark.parallel


ROOT = Path(__file__).resolve().parents[2]

# Setting -> (a value that is not the default, as it is read from a file; the text of this value for a flag or variable)
OTHERS: dict[str, tuple[Any, str]] = {
    "interface": (["auto", "eth*", "/^veth[0-9]{1,3}$/"], "auto,eth*,/^veth[0-9]{1,3}$/"),
    "lan": (["br0"], "br0"),
    "mirror": (["span*"], "span*"),
    "interval": ("10s", "10"),
    "record": ("/var/lib/epping.jsonl", "/var/lib/epping.jsonl"),
    "health_port": (9464, "9464"),
    "health_address": ("::1", "::1"),
    "log_format": ("json", "json"),
    "log_level": ("debug", "debug"),
    "prefix_v4": (20, "20"),
    "prefix_v6": (40, "40"),
    "sample_interval": ("500ms", "0.5"),
    "max_age": ("1m", "60s"),
    "methods": (["dns", "icmp_echo"], "dns,icmp_echo"),
    "tunnels": (True, "1"),
    "hook": ("clsact", "clsact"),
    "scale": (5, "5"),
    "max_subnets": (100, "100"),
    "max_flows": (200, "200"),
    "idle_timeout": ("1h", "1h"),
    "metrics": (["core", "ecn"], "core,ecn"),
    "attributes": (
        {"rtt": ["tag", "side"], "ecn": ["side", "direction", "ecn"]},
        "rtt=tag,side;ecn=side,direction,ecn",
    ),
    "max_series": (50, "50"),
    "roll_up": (False, "0"),
    "min_samples": (10, "10"),
    "networks": ("/etc/otel-epping/networks.csv", "/etc/otel-epping/networks.csv"),
    "network_tags": (["site", "plan"], "site,plan"),
    "database": (["/var/lib/asn.mmdb", "/var/lib/country.mmdb"], "/var/lib/asn.mmdb,/var/lib/country.mmdb"),
    "group_by": ("site", "site"),
    "embedded_ipv4": (["6to4", "2001:db8:64::/96"], "6to4,2001:db8:64::/96"),
}
LINE = re.compile(r"(\w+): .* # (.+)")


@pytest.fixture
def path(public: Path) -> Path:
    return public / "otel-epping.yaml"


def shown(
    ns: Namespace, *arguments: str, settings: dict[str, str] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the values that the command `config` prints, and the sources of the values."""
    result = epping(ns, "config", *arguments, settings=settings)
    assert result.returncode == 0, result.stderr
    found = [LINE.fullmatch(line) for line in result.stdout.splitlines()]
    return yaml.safe_load(result.stdout), {each[1]: each[2] for each in found if each}


@pytest.mark.unit
def test_the_tests_cover_every_setting() -> None:
    assert list(OTHERS) == [setting.key for setting in DEFINITIONS]


@pytest.mark.unit
def test_defaults_are_those_of_the_kernel_program() -> None:
    """Users can set all fields of EppingConfig except five fields.

    otel-epping itself sets these fields, depending on the command and on the settings `mirror` and `networks`.
    """
    knobs = {setting.field for setting in DEFINITIONS if setting.spec.kernel}
    assert {field.name for field in fields(EppingConfig)} - knobs == {
        "copies",
        "events",
        "packet_clock",
        "named_networks",
        "named_prefixes",
    }
    assert Settings().kernel == EppingConfig()


def test_defaults_are_those_of_the_library(ns: Namespace) -> None:
    assert Settings().limits == Limits() == Limits(500, 0, True)
    assert Settings(max_series=0).limits == Limits(max_series=None)
    assert Settings().exported == MetricSelection()


def test_attributes_must_belong_to_exported_groups(ns: Namespace) -> None:
    for command in (["run", "-i", "lo"], ["config"]):
        line = said(epping(ns, *command, "--attributes", "ecn=side,direction,ecn"))
        assert line == "attributes are selected for group ecn, but metrics does not contain the group"


CONTRADICTIONS = [
    (
        "network_tags: [site, plan]",
        "network_tags has the value site,plan, but there are no named networks: set networks to a file with these "
        "tags, or remove network_tags",
    ),
    (
        "group_by: asn",
        "group_by is asn, but there is no database: set database to a file with this field, or group by subnet",
    ),
    (
        "group_by: site\ndatabase: x.mmdb",
        "group_by is site, but there are no named networks: set networks to a file, or group by subnet, asn or country",
    ),
    ("metrics: tcp\nattributes: {rtt: [side]}", "attributes are selected for group rtt, but metrics does not contain"),
]


@pytest.mark.parametrize(("text", "complaint"), CONTRADICTIONS, ids=[text for text, _ in CONTRADICTIONS])
def test_settings_that_contradict_each_other_are_refused_with_their_lines(
    ns: Namespace, path: Path, text: str, complaint: str
) -> None:
    path.write_text(text)
    for command in (["run", "-i", "lo"], ["config"], ["cost", "x"], ["replay", "x"]):
        line = said(epping(ns, *command, "--config", str(path)))
        assert line.startswith(f"{path}:")
        assert complaint in line


def test_the_output_of_config_is_a_file_with_the_same_settings(ns: Namespace, path: Path) -> None:
    path.write_text(yaml.safe_dump({key: value for key, (value, _) in OTHERS.items()}, sort_keys=False))
    values, sources = shown(ns, "--config", str(path))
    assert values == {key: value for key, (value, _) in OTHERS.items()}
    lines = path.read_text().splitlines()
    for key, where in sources.items():
        assert lines[int(where.removeprefix(f"{path}:")) - 1].startswith(f"{key}:")
    again = path.with_name("again.yaml")
    again.write_text(epping(ns, "config", "--config", str(path)).stdout)
    assert file.read(str(again)).keys() == file.read(str(path)).keys()
    assert shown(ns, "--config", str(again))[0] == values


def test_printed_defaults_are_a_valid_file(ns: Namespace, path: Path) -> None:
    values, sources = shown(ns)
    assert set(sources.values()) == {"default"}
    path.write_text(yaml.safe_dump(values))
    assert shown(ns, "--config", str(path))[0] == values


def test_variables_set_everything(ns: Namespace) -> None:
    settings = {f"OTEL_EPPING_{key.upper()}": text for key, (_, text) in OTHERS.items()}
    values, sources = shown(ns, settings=settings)
    assert values == {key: value for key, (value, _) in OTHERS.items()}
    assert sources == {key: f"OTEL_EPPING_{key.upper()}" for key in OTHERS}


FLAGS = {True: "--", False: "--no-"}


def test_flags_set_everything(ns: Namespace) -> None:
    arguments = [
        f"--{key.replace('_', '-')}={text}" if not isinstance(value, bool) else FLAGS[value] + key.replace("_", "-")
        for key, (value, text) in OTHERS.items()
        if key not in ("interface", "database")
    ]
    arguments += [f"--{key}={each}" for key in ("interface", "database") for each in OTHERS[key][0]]
    values, sources = shown(ns, *arguments)
    assert values == {key: value for key, (value, _) in OTHERS.items()}
    assert sources == {key: f"--{key.replace('_', '-')}" for key in OTHERS}


def test_flags_override_variables_and_variables_override_the_file(ns: Namespace, path: Path) -> None:
    path.write_text("scale: 1\nmax_flows: 100\nprefix_v4: 8\ntunnels: true\ninterface: [eth0, eth1]\n")
    variables = {"OTEL_EPPING_SCALE": "2", "OTEL_EPPING_MAX_FLOWS": "200", "OTEL_EPPING_CONFIG": str(path)}
    values, sources = shown(ns, "--scale", "3", "--no-tunnels", "-i", "lo", settings=variables)
    expected = {"scale": 3, "max_flows": 200, "prefix_v4": 8, "prefix_v6": 48, "tunnels": False, "interface": ["lo"]}
    assert {key: values[key] for key in expected} == expected
    where = ["--scale", "OTEL_EPPING_MAX_FLOWS", f"{path}:3", "default", "--tunnels", "--interface"]
    assert [sources[key] for key in expected] == where


REFUSED = [
    ("max_subnet: 3", ":1: there is no setting 'max_subnet': did you mean max_subnets?"),
    ("max-flows: 100", ":1: there is no setting 'max-flows': did you mean max_flows?"),
    ("interfaces: lo", ":1: there is no setting 'interfaces': did you mean interface?"),
    ("xyzzy: 1", ":1: there is no setting 'xyzzy': choose among interface, lan, "),
    ("? [a]\n: b", ":1: there is no setting '': choose among "),
    ("scale: 1\n\nscale: 2", ":3: scale is already set in line 1"),
    ("# mine\nscale: 7", ":2: scale: 7 is not in the range 0<=x<=6"),
    ("scale: true", ":1: scale: 'true' is not a valid integer"),
    ("scale: [1]", ":1: scale: this setting takes a single value"),
    ("interval: {a: b}", ":1: interval: this setting takes a single value"),
    ("interface: [[lo]]", ":1: interface: this setting takes a single value"),
    ("interval: 1:30", ":1: interval: '1:30' is not a time such as 100ms, 2.5s or 1m"),
    ("interval: 0", ":1: interval: 0 is not in the range from 0.001s to 86400s"),
    (f"interval: {'9' * 5000}", f":1: interval: {'9' * 5000} is not in the range from 0.001s to 86400s"),
    ("interface: '/(/'", ":1: interface: /(/ is not a valid regular expression: missing )"),
    ("tunnels: maybe", ":1: tunnels: 'maybe' is not a valid boolean"),
    ("methods: [dns, smoke]", ":1: methods: there is no method 'smoke': choose among tcp_timestamp"),
    ("log_level: loud", ":1: log_level: 'loud' is not one of 'debug', 'info', 'warning', 'error'"),
    ("embedded_ipv4: [none, nat64]", ":1: embedded_ipv4: embedded_ipv4 is none,nat64: none must be the only value"),
    (
        "embedded_ipv4: 64:ff9b::/95",
        ":1: embedded_ipv4: embedded_ipv4 has '64:ff9b::/95': the length of a NAT64 prefix is ",
    ),
    ("networks: [a, b]", ":1: networks: this setting takes a single value"),
    ("group_by: ''", ":1: group_by: the text is empty: choose among subnet, name, asn, country"),
    ("- scale", " is not a YAML mapping: write each setting as key: value"),
    ("a: b: c", ":1: this is not YAML: mapping values are not allowed here"),
    ("scale: !!python/object/apply:os.getpid []", ":1: scale: this setting takes a single value"),
]


@pytest.mark.unit
@pytest.mark.parametrize(("text", "complaint"), REFUSED, ids=[text[:80] for text, _ in REFUSED])
def test_errors_in_a_file_have_the_line_the_key_and_the_valid_values(path: Path, text: str, complaint: str) -> None:
    path.write_text(text)
    with pytest.raises(EppingError) as caught:
        file.read(str(path))
    assert str(caught.value).startswith(f"{path}{complaint}")
    assert "\n" not in str(caught.value)


def test_an_invalid_file_stops_every_command_that_reads_it(ns: Namespace, path: Path) -> None:
    """An invalid setting is an error, even if a flag overrides the setting or the command does not use the setting."""
    path.write_text("interval: soon\n")
    for command in (
        ["run", "-i", "lo", "--interval", "1s"],
        ["config"],
        ["check"],
        ["watch", "-i", "lo"],
        ["replay", "x"],
    ):
        line = said(epping(ns, *command, "--config", str(path)))
        assert line == f"{path}:1: interval: 'soon' is not a time such as 100ms, 2.5s or 1m"


def test_replay_has_no_hook(ns: Namespace, path: Path) -> None:
    """`replay` has no flag --hook.

    But the configuration file of `replay` may contain the setting `hook`, because other commands use the same file.
    """
    assert "No such option '--hook'" in said(epping(ns, "replay", "--hook", "tcx", "x"))
    path.write_text("hook: clsact\n")
    assert said(epping(ns, "replay", "x", "--config", str(path))) == "x: No such file or directory"


def test_a_file_that_cannot_be_read(ns: Namespace, path: Path) -> None:
    assert said(epping(ns, "config", "--config", str(path))) == f"cannot read {path}: No such file or directory"
    for content in (b"\xff\xfe\xff", b"interface: caf\xe9\n", b"scale: 3\n\0"):
        path.write_bytes(content)
        words = said(epping(ns, "config", "--config", str(path)))
        assert words.startswith(f"cannot read {path}: ")
        assert words.endswith(": save it as UTF-8 text")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_is_unicode_in_every_locale(ns: Namespace, path: Path, encoding: str) -> None:
    path.write_text("interface: café\r\n", encoding=encoding)
    narrow = ["env", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0", *COMMAND]
    assert "interface: [café]" in epping(ns, "config", "--config", str(path), command=narrow).stdout


@pytest.mark.unit
@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", "scale:\ninterval: null\ninterface: ~\n"])
def test_an_empty_file_or_value_sets_nothing(path: Path, text: str) -> None:
    path.write_text(text)
    assert file.read(str(path)) == {}


@pytest.mark.unit
def test_values_are_not_converted_as_in_yaml(path: Path) -> None:
    """YAML 1.1 would read `no` as False, and `1:30` as 90. YAML 1.2 would read `0o10` as 8.

    The reader of otel-epping returns `no`, `1:30` and `0o10` as text.
    """
    path.write_text("interface: [no, 0o10, 1:30]\ninterval: 60\n")
    given = file.read(str(path))
    assert given["interface"].value == ("no", "0o10", "1:30")
    assert given["interval_ns"].value == 60 * 10**9


def test_an_unknown_variable_is_an_error(ns: Namespace) -> None:
    for command in (["run", "-i", "lo"], ["config"], ["check"]):
        line = said(epping(ns, *command, settings={"OTEL_EPPING_MAX_SUBNET": "1"}))
        assert line == "there is no variable OTEL_EPPING_MAX_SUBNET: did you mean OTEL_EPPING_MAX_SUBNETS?"


def test_variables_of_other_commands_and_of_kubernetes_are_ignored(ns: Namespace) -> None:
    names = ["OTEL_EPPING_FORMAT", "OTEL_EPPING_PORT", "OTEL_EPPING_SERVICE_PORT_OTLP_GRPC"]
    names += ["OTEL_EPPING_COLLECTOR_SERVICE_HOST", "OTEL_EPPING_COLLECTOR_PORT_4317_TCP_ADDR"]
    assert set(shown(ns, settings=dict.fromkeys(names, "x"))[1].values()) == {"default"}


@pytest.mark.unit
def test_the_documentation_is_generated_from_the_table() -> None:
    assert (ROOT / "docs/settings.md").read_text() == settings_page.markdown(), "run `make docs`"


def test_the_schema_has_every_setting_and_accepts_its_values(ns: Namespace) -> None:
    schema = json.loads(epping(ns, "config", "--schema").stdout)
    assert list(schema["properties"]) == list(OTHERS)
    assert schema["additionalProperties"] is False
    for key, (value, _) in OTHERS.items():
        for each in (value, schema["properties"][key]["default"], None):
            assert any(fits(each, kind) for kind in schema["properties"][key]["anyOf"]), (key, each)
    for key, value in {
        "scale": 7,
        "interval": "soon",
        "methods": ["smoke"],
        "log_level": "loud",
        "tunnels": "maybe",
    }.items():
        assert not any(fits(value, kind) for kind in schema["properties"][key]["anyOf"]), key


PYTHON = {"integer": int, "number": (int, float), "string": str, "boolean": bool, "array": list, "null": type(None)}
PYTHON |= {"object": dict}
OBJECT = {"properties", "additionalProperties"}


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """Return true if a value matches a schema. The function supports only the keywords that our schemas use."""
    assert schema.keys() <= {"type", "enum", "items", "minimum", "maximum", "pattern", "examples"} | OBJECT
    if "type" in schema and not isinstance(value, PYTHON[schema["type"]]):  # type: ignore[arg-type]
        return False
    return (
        ("enum" not in schema or value in schema["enum"])
        and ("properties" not in schema or all(fits(each, schema["properties"][key]) for key, each in value.items()))
        and ("items" not in schema or all(fits(each, schema["items"]) for each in value))
        and ("minimum" not in schema or schema["minimum"] <= value <= schema["maximum"])
        and ("pattern" not in schema or re.search(schema["pattern"], value) is not None)
    )
