# SPDX-License-Identifier: Apache-2.0
"""Tests the files around the sources: workflows, issue forms, policies, and the citation file.

`make lint` checks the format of these files. The tests check that the files agree with the Makefile, with the supported
versions of Python, and with each other.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from otel_epping.version import __version__

pytestmark = [pytest.mark.unit, pytest.mark.parallel]

ROOT = Path(__file__).resolve().parent.parent
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
ADDRESS = "https://github.com/otel-epping/otel-epping"

PINNED_ACTION = re.compile(r"[\w-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")
LOCAL_WORKFLOW = re.compile(r"\$/\.github/workflows/[\w-]+\.yml")


def read(path: str) -> str:
    return (ROOT / path).read_text()


def jobs(workflow: Path) -> dict[str, dict[str, Any]]:
    """Returns the jobs of a workflow by their ids."""
    return dict(yaml.safe_load(workflow.read_text())["jobs"])


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE))


def targets_of(job: dict[str, Any]) -> set[str]:
    """Returns the make targets that a job runs, including the targets in its matrix."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found: set[str] = set(matrix.get("target", []))
    for step in job.get("steps", []):
        for words in re.findall(r"\bmake((?: [a-z]+\b(?!=))+)", step.get("run", "")):
            found.update(words.split())
    return found


def test_the_workflows_run_the_make_targets_of_continuous_integration() -> None:
    run = {target for workflow in WORKFLOWS for job in jobs(workflow).values() for target in targets_of(job)}
    assert run == {"browser", "build", "compat", "distrotest", "integration", "lint", "sbom", "test", "unit"}
    assert run - make_targets() == set()


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_commit_with_its_version(workflow: Path) -> None:
    uses = re.findall(r"^ +(?:- )?uses: (.+)$", workflow.read_text(), re.MULTILINE)
    assert uses
    assert [use for use in uses if not PINNED_ACTION.fullmatch(use) and not LOCAL_WORKFLOW.fullmatch(use)] == []


def test_all_workflows_pin_the_same_commit_of_an_action() -> None:
    pins = {pin for workflow in WORKFLOWS for pin in re.findall(r"uses: (.+@.+)", workflow.read_text())}
    actions = [pin.partition("@")[0] for pin in pins]
    assert "actions/checkout" in actions
    assert len(actions) == len(set(actions)), pins


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_job_has_only_the_permissions_that_it_names(workflow: Path) -> None:
    assert yaml.safe_load(workflow.read_text())["permissions"] == {}
    assert all(job["permissions"] for job in jobs(workflow).values())


def test_only_the_publishing_jobs_of_a_release_have_write_permissions() -> None:
    writing = {
        (workflow.stem, name)
        for workflow in WORKFLOWS
        for name, job in jobs(workflow).items()
        if "write" in job["permissions"].values()
    }
    assert writing == {("release", "attest"), ("release", "publish"), ("release", "github-release")}


def test_a_release_is_published_after_its_tests_and_an_approval() -> None:
    release = jobs(GITHUB / "workflows/release.yml")
    assert {"build", "check", "test"} == set(release["attest"]["needs"])
    assert release["publish"]["needs"] == "attest"
    assert release["publish"]["environment"]["name"] == "pypi"
    assert release["github-release"]["needs"] == "publish"


def test_the_versions_of_python_agree() -> None:
    classifiers = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', read("pyproject.toml"))
    assert len(classifiers) >= 5
    assert jobs(GITHUB / "workflows/check.yml")["unit"]["strategy"]["matrix"]["python"] == classifiers
    versions = re.search(r"^versions=\((.*)\)$", read("tests/pythons.sh"), re.MULTILINE)
    assert versions is not None
    assert versions[1].split() == classifiers
    requires = re.search(r'^requires-python = "(.*)"$', read("pyproject.toml"), re.MULTILINE)
    assert requires is not None
    allowed = [f"3.{minor}" for minor in range(20) if f"3.{minor}" in SpecifierSet(requires[1])]
    assert allowed[0] == classifiers[0]


def test_pre_commit_runs_the_tools_of_make_lint() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", read("Makefile"), re.MULTILINE)
    assert lint is not None
    commands = lint[1].replace("$(SCHEMA)", "$(BIN)/check-jsonschema --builtin-schema")
    tools = set(re.findall(r"\$\(BIN\)/([\w-]+)", commands))
    schemas = set(re.findall(r"\b(?:vendor|custom)\.[\w-]+", commands))
    assert len(tools) >= 6
    assert len(schemas) >= 6
    hooks = [hook for repo in yaml.safe_load(read(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
    entries = " ".join(hook["entry"] for hook in hooks)
    assert set(re.findall(r"\.venv/bin/([\w-]+)", entries)) == tools
    assert set(re.findall(r"\b(?:vendor|custom)\.[\w-]+", entries)) == schemas


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_an_issue_form_asks_for_the_output_of_check(form: str) -> None:
    fields = yaml.safe_load((GITHUB / f"ISSUE_TEMPLATE/{form}.yml").read_text())["body"]
    check = next(field for field in fields if field.get("id") == "check")
    assert "otel-epping check" in check["attributes"]["label"]
    assert check.get("validations", {}).get("required", False) == (form == "bug")


def test_the_citation_has_this_version_and_the_licences() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == __version__
    licence = re.search(r'^license = "(.*?)"', read("pyproject.toml"), re.MULTILINE)
    assert licence is not None
    assert " AND ".join(citation["license"]) == licence[1]
    assert "10.1007/978-3-031-28486-1_9" in [reference.get("doi") for reference in citation["references"]]


def test_the_texts_of_the_licences_are_the_same_everywhere() -> None:
    assert {path.stem for path in (ROOT / "LICENSES").iterdir()} == {"Apache-2.0", "GPL-2.0-only"}
    assert read("LICENSES/Apache-2.0.txt") == read("LICENSE")
    assert read("LICENSES/GPL-2.0-only.txt") == read("bpf/LICENSE")


def test_all_files_of_the_repository_name_the_same_address() -> None:
    files = [path for path in GITHUB.rglob("*") if path.is_file()]
    files += [ROOT / name for name in ("CITATION.cff", "CODE_OF_CONDUCT.md", "SECURITY.md", "pyproject.toml")]
    found = {
        address
        for path in files
        for address in re.findall(r"https://github\.com/[\w-]*epping[\w-]*/[\w-]+", path.read_text())
    }
    assert found == {ADDRESS}
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["repository-code"] == ADDRESS


@pytest.mark.parametrize("page", ["CODE_OF_CONDUCT.md", "RELEASING.md", "SECURITY.md"])
def test_the_files_that_a_policy_links_to_exist(page: str) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#]+)", read(page))
    assert [link for link in links if not (ROOT / link).exists()] == []
