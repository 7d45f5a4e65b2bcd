# SPDX-License-Identifier: Apache-2.0
"""Tests properties of the project: licences, levels of imports, the length of files, and the contents of the packages.

The tests build the packages with the command of `make build`, and open them. The tests read the imports from the
sources with `ast`. The tests check every import, even an import inside a function or through another module.
"""

import ast
import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "otel_epping"
BPF = ROOT / "bpf"

# Directories that contain no sources of the project. Hidden directories are skipped, too, except .ci.
GENERATED = {"__pycache__", "build", "dist"}

# The levels of the package, highest first. A module may import from its own folder and from folders of lower levels.
LEVELS = [
    ["otel_epping.cli"],
    ["otel_epping.cost"],
    ["otel_epping.report", "otel_epping.top"],
    ["otel_epping.history"],
    ["otel_epping.agent", "otel_epping.instrumentor", "otel_epping.lab", "otel_epping.replay"],
    ["otel_epping.settings"],
    ["otel_epping.otel"],
    ["otel_epping.events", "otel_epping.series"],
    ["otel_epping.kernel"],
    ["otel_epping.networks"],
    ["otel_epping.process", "otel_epping.errors", "otel_epping.version"],
]
# The entry points belong to no level. `otel_epping` imports a public name when the name is first used.
ENTRY = {"otel_epping", "otel_epping.__main__"}
# The levels inside folders that contain other folders. "." stands for all other modules of the folder.
INNER_LEVELS = {
    "otel_epping.kernel": [["collector"], ["read"], ["attach"], ["load"], ["netlink"], ["."]],
    "otel_epping.otel": [
        ["pipeline", "install", "self_metrics", "exporter", "export_status"],
        ["otlp"],
        ["."],
        ["variables"],
    ],
    "otel_epping.replay": [["."], ["capture"]],
}
MAX_LINES = 330


def source_files() -> Iterator[Path]:
    """Yield every source file of the project, including files that git does not track."""
    for directory, names, files in os.walk(ROOT):
        names[:] = [n for n in names if n not in GENERATED and (n == ".ci" or not n.startswith("."))]
        for path in (Path(directory, file) for file in files):
            if path.suffix in {".py", ".c", ".h", ".sh"} or path.name == "Makefile" or path.parent.name == ".ci":
                yield path


def within(module: str, package: str) -> bool:
    """Return true if the module is the package or inside the package."""
    return module == package or module.startswith(package + ".")


def module_name(path: Path) -> str:
    """Return the dotted name of the module in the file `path`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(module: str) -> set[str]:
    """Return the modules that are imported anywhere in the file of `module`. Modules of the package have their full
    names; other modules have the names in the import statements."""
    found: set[str] = set()
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            for alias in node.names:
                name = f"{source}.{alias.name}"
                found.add(name if name in MODULES else source)
    return found


def reachable(package: str) -> dict[str, str]:
    """Return all modules that a package imports directly or indirectly: imported module -> module that imports it."""
    importer: dict[str, str] = {}
    todo = [module for module in MODULES if within(module, package)]
    while todo:
        module = todo.pop()
        for imported in imports(module) - importer.keys():
            importer[imported] = module
            if imported in MODULES:
                todo.append(imported)
    return importer


def test_every_source_file_names_its_licence_in_its_first_lines() -> None:
    files = list(source_files())
    assert {path.suffix for path in files} >= {".py", ".c", ".h", ""}
    wrong = []
    for path in files:
        licence = "GPL-2.0-only" if path.is_relative_to(BPF) else "Apache-2.0"
        head = path.read_text().splitlines()[:2]  # the first line of a script may name its interpreter
        # REUSE-IgnoreStart
        if not any(line.removesuffix(" */").endswith(f"SPDX-License-Identifier: {licence}") for line in head):
            # REUSE-IgnoreEnd
            wrong.append(f"{path.relative_to(ROOT)}: {licence}")
    assert not wrong


def test_no_source_file_is_too_long() -> None:
    files = [path for path in source_files() if path.is_relative_to(PACKAGE) or path.is_relative_to(BPF)]
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert lines
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def folder_of(module: str) -> tuple[str, int]:
    """Return the entry of LEVELS that contains a module, and the number of its level."""
    ((name, level),) = ((name, level) for level, names in enumerate(LEVELS) for name in names if within(module, name))
    return name, level


def test_each_module_is_on_a_level_and_each_level_has_modules() -> None:
    modules = MODULES.keys() - ENTRY
    listed = {name for names in LEVELS for name in names}
    assert {folder_of(module)[0] for module in modules} == listed


def test_imports_only_go_to_lower_levels() -> None:
    upwards = []
    for module in MODULES.keys() - ENTRY:
        folder, level = folder_of(module)
        for imported in imports(module) & MODULES.keys() - ENTRY:
            other, its_level = folder_of(imported)
            if its_level < level or (its_level == level and other != folder):
                upwards.append(f"{module} (level of {folder}) imports {imported}")
    assert not upwards


@pytest.mark.parametrize("package", INNER_LEVELS)
def test_imports_only_go_to_lower_levels_inside_a_folder(package: str) -> None:
    levels = {name: level for level, names in enumerate(INNER_LEVELS[package]) for name in names}

    def level_of(module: str) -> int:
        return levels.get(module.removeprefix(f"{package}.").partition(".")[0], levels["."])

    modules = {module for module in MODULES if within(module, package) and module != package}
    upwards = [
        f"{module} imports {imported}"
        for module in modules
        for imported in imports(module) & modules
        if level_of(imported) < level_of(module)
    ]
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Prints a circular import as a chain of imports."""
    importing = {module: sorted(imports(module) & MODULES.keys() - {module}) for module in MODULES}
    done: set[str] = set()

    def follow(module: str, chain: list[str]) -> None:
        assert module not in chain, " imports ".join([*chain[chain.index(module) :], module])
        if module not in done:
            for imported in importing[module]:
                follow(imported, [*chain, module])
            done.add(module)

    for module in MODULES:
        follow(module, [])


@pytest.mark.parametrize(
    "layer",
    ["otel_epping.kernel", "otel_epping.series.subnet", "otel_epping.series.histogram", "otel_epping.otel.variables"],
)
def test_the_lower_layers_do_not_import_opentelemetry(layer: str) -> None:
    found = [f"{by} imports {module}" for module, by in reachable(layer).items() if within(module, "opentelemetry")]
    assert not found


def test_the_kernel_package_imports_only_lower_packages() -> None:
    ours = [module for module in reachable("otel_epping.kernel") if within(module, "otel_epping")]
    below = ("otel_epping.kernel", "otel_epping.networks", "otel_epping.process", "otel_epping.errors")
    assert [module for module in ours if not any(within(module, name) for name in below)] == []


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the wheel and the sdist, which are built for these tests."""
    directory = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(directory)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.fixture
def wheel(dist: Path) -> Iterator[zipfile.ZipFile]:
    """The opened wheel."""
    with zipfile.ZipFile(next(dist.glob("*.whl"))) as archive:
        yield archive


def read_from_dist_info(wheel: zipfile.ZipFile, name: str) -> str:
    """Return the text of a metadata file of the wheel."""
    path = next(path for path in wheel.namelist() if path.endswith(f".dist-info/{name}"))
    return wheel.read(path).decode()


def files_below(directory: Path) -> set[str]:
    """Return the paths of all files below a directory except compiled Python files. Paths are relative to the root."""
    paths = {path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {path.relative_to(ROOT).as_posix() for path in paths}


def test_the_wheel_holds_the_package_and_the_kernel_program(wheel: zipfile.ZipFile) -> None:
    contents = {name for name in wheel.namelist() if ".dist-info/" not in name}
    bpf = {f"otel_epping/{name}" for name in files_below(BPF)}
    assert any(name.endswith(".bpf.c") for name in bpf)
    assert any(name.startswith("otel_epping/bpf/stubs/") for name in bpf)
    assert contents == files_below(PACKAGE) | bpf
    assert "otel_epping/py.typed" in contents


def test_the_wheel_installs_the_command_and_both_licences(wheel: zipfile.ZipFile) -> None:
    assert "otel-epping = otel_epping.__main__:main" in read_from_dist_info(wheel, "entry_points.txt")
    metadata = email.message_from_string(read_from_dist_info(wheel, "METADATA"))
    assert metadata["License-Expression"] == "Apache-2.0 AND GPL-2.0-only"
    assert metadata.get_all("License-File") == ["LICENSE", "bpf/LICENSE"]
    assert "Apache License" in read_from_dist_info(wheel, "licenses/LICENSE")
    assert "GNU GENERAL PUBLIC LICENSE" in read_from_dist_info(wheel, "licenses/bpf/LICENSE")


def test_the_sdist_holds_sources_tests_and_examples(dist: Path) -> None:
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        contents = {name.partition("/")[2] for name in archive.getnames()}
    for part in ("bench", "bpf", "otel_epping", "tests", "examples"):
        assert files_below(ROOT / part) - contents == set()
    assert {"LICENSE", "Makefile", "README.md", "constraints.txt", "pyproject.toml"} <= contents


def test_constraints_pin_every_direct_dependency(wheel: zipfile.ZipFile) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert [str(pin) for pin in pins if [s.operator for s in pin.specifier] != ["=="]] == []
    metadata = email.message_from_string(read_from_dist_info(wheel, "METADATA"))
    direct = {canonicalize_name(Requirement(text).name) for text in metadata.get_all("Requires-Dist", [])}
    direct.discard(canonicalize_name("otel-epping"))
    assert {"numpy", "opentelemetry-sdk", "rotel", "ruff"} <= direct
    for version in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        valid = [pin for pin in pins if pin.marker is None or pin.marker.evaluate({"python_version": version})]
        pinned = {canonicalize_name(pin.name) for pin in valid}
        assert direct - pinned == set(), f"Python {version}"


def test_files_of_text_have_an_encoding() -> None:
    """Without an encoding, the locale decides whether a file can be read. Ruff's PLW1514 does not find all calls."""
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and "encoding" not in {keyword.arg for keyword in node.keywords}:
                name = ast.unparse(node.func).rpartition(".")[2]
                modes = [each.value for each in node.args if isinstance(each, ast.Constant)]
                is_opened = name in ("open", "fdopen", "TemporaryFile") and ast.unparse(node.func) != "os.open"
                if name in ("read_text", "write_text") or (is_opened and not any("b" in str(mode) for mode in modes)):
                    found.append(f"{module}:{node.lineno}")
    assert found == ["otel_epping.__main__:53"]  # /dev/null


def test_bcc_is_never_a_pip_dependency(wheel: zipfile.ZipFile) -> None:
    metadata = email.message_from_string(read_from_dist_info(wheel, "METADATA"))
    assert "bcc" not in {Requirement(text).name for text in metadata.get_all("Requires-Dist", [])}


def test_every_make_target_that_is_documented_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]
    named = {
        name for page in pages for name in re.findall(r"(?:^ {4}|`)make ([a-z]+)\b", page.read_text(), re.MULTILINE)
    }
    assert {"demo", "test", "soak", "vmtest"} <= named
    assert named - targets == set()


def test_a_name_of_a_class_or_of_an_array_type_means_one_thing() -> None:
    classes: dict[str, list[str]] = {}
    arrays: dict[str, set[str]] = {}
    for path in (path for folder in ("otel_epping", "bench", "scripts") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
            elif isinstance(node, ast.Assign) and (value := ast.unparse(node.value)).startswith("npt.NDArray"):
                arrays.setdefault(ast.unparse(node.targets[0]), set()).add(value)
    assert {name: paths for name, paths in classes.items() if len(paths) > 1} == {}
    assert {name: values for name, values in arrays.items() if len(values) > 1} == {}
    assert {"Counts", "Indexes"} <= arrays.keys()
