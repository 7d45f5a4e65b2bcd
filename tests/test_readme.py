# SPDX-License-Identifier: Apache-2.0
"""Tests README.md. Its links and pictures must exist, and its commands must have valid options."""

import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path

import click
import pytest

from otel_epping.cli import cli
from otel_epping.lab.demo import LOADED

pytestmark = [pytest.mark.unit, pytest.mark.parallel]

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"(?:^|`)otel-epping ((?:top|report|run) [^`\n]*)", TEXT, re.M)
# These commands read files of the user, or end immediately.
COMMANDS = [command for command in COMMANDS if not re.search(r"--(networks|database|help)\b", command)]


def test_all_linked_files_and_pictures_exist() -> None:
    links = {link for link in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in link}
    assert {"docs/images/top.svg", "docs/images/report.png", "docs/top.md", "docs/report.md"} <= links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_picture_of_top_shows_the_worst_network_and_loads_nothing() -> None:
    picture = (ROOT / "docs/images/top.svg").read_text()
    assert "url(http" not in picture
    assert "@import" not in picture
    texts = [
        str(text.text).replace("\xa0", " ") for text in ET.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert any(text.startswith(f"Worst: {LOADED.subnet}: mean ") for text in texts)
    assert sum((ROOT / "docs/images" / name).stat().st_size for name in ("top.svg", "report.png")) < 400_000


def test_the_readme_has_commands() -> None:
    assert {command.split()[0] for command in COMMANDS} == {"top", "report", "run"}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_options_of_the_commands_are_valid(command: str) -> None:
    name, *arguments = shlex.split(command, comments=True)
    subcommand = cli.commands[name]
    with subcommand.make_context(name, arguments) as context:
        assert isinstance(context, click.Context)
        assert context.params
