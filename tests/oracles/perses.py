# SPDX-License-Identifier: Apache-2.0
"""Checks examples/perses/dashboard.json with Perses.

    .venv/bin/python tests/oracles/perses.py PLUGINS SHARED     clones of perses/plugins and perses/shared, with tags

Go's module proxy has the server and the command-line program of Perses, but not the plugins, which contain the schemas
of panels, queries and variables. So the script takes the schemas from the clones, in the versions that the release of
Perses contains. The first run builds two programs, and takes several minutes. The programs are kept in
~/.cache/otel-epping/perses-VERSION.

The script starts the server, and imports the dashboard as docs/dashboards.md describes. Then the script compares the
stored dashboard with the file, because Perses drops unknown fields of a dashboard. To test the check itself, the script
also imports the SPOILED dashboards. Perses must refuse each SPOILED dashboard, or drop one of its fields. The exit code
is 1 if a check fails.
"""

import argparse
import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if not __package__:  # as a script, sys.path contains the folder of this file instead of the root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from otel_epping.errors import EppingError
from tests.support.json_fields import lost

VERSION, SPEC_VERSION = "v0.54.0", "v0.2.0"
PERSES, SPEC = "github.com/perses/perses", "github.com/perses/spec"
HOME = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "otel-epping" / f"perses-{VERSION}"
DASHBOARD = Path(__file__).resolve().parents[2] / "examples" / "perses" / "dashboard.json"
PROJECT = "network"
START_S = 60

Json = dict[str, Any]


def _panel(dashboard: Json, key: str) -> Json:
    panel: Json = dashboard["spec"]["panels"][key]["spec"]
    return panel


def _settings(dashboard: Json, key: str) -> Json:
    settings: Json = _panel(dashboard, key)["plugin"]["spec"]
    return settings


def _query(dashboard: Json, key: str) -> Json:
    query: Json = _panel(dashboard, key)["queries"][0]["spec"]["plugin"]
    return query


def _variable(dashboard: Json, number: int) -> Json:
    variable: Json = dashboard["spec"]["variables"][number]["spec"]
    return variable


# Errors that the check must find.
SPOILED: dict[str, Callable[[Json], object]] = {
    "wrong unit": lambda d: _settings(d, "attached")["yAxis"].update(format={"unit": "short"}),
    "wrong kind of panel": lambda d: _panel(d, "attached")["plugin"].update(kind="timeseries"),
    "wrong kind of query": lambda d: _query(d, "attached").update(kind="PrometheusQuery"),
    "wrong kind of variable": lambda d: _variable(d, 1)["plugin"].update(kind="LabelValues"),
    "unknown setting of a panel": lambda d: _settings(d, "worst-network").update(graphMode="none"),
    "unknown setting of a query": lambda d: _query(d, "worst-network")["spec"].update(legend="x"),
    "unknown setting of a variable": lambda d: _variable(d, 1)["plugin"]["spec"].update(metric="x"),
    "unknown transformation": lambda d: _settings(d, "top-10-by-impact").update(transforms=[{"kind": "Merge"}]),
    "limits of a heat map": lambda d: _settings(d, "distribution-of-round-trip-times").update(min=20),
    "query without text": lambda d: _query(d, "attached")["spec"].update(query=""),
    "layout with a missing panel": lambda d: d["spec"]["panels"].pop("attached"),
    "variable that does not exist": lambda d: _variable(d, 1)["plugin"]["spec"].update(matchers=["up{a='$missing'}"]),
    "unknown field of the dashboard": lambda d: d["spec"].update(refresh="1m"),
    "unknown field of a place": lambda d: d["spec"]["layouts"][0]["spec"]["items"][0].update(w=3),
    "unknown field of a panel": lambda d: _panel(d, "attached")["display"].update(title="x"),
}


def _run(*command: str | Path, **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        raise EppingError(f"{' '.join(map(str, command))}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def _go(*arguments: str, cwd: Path = Path("/")) -> str:
    tools = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/local/go/bin", "GOFLAGS": "-buildvcs=false"}
    return _run("go", *arguments, cwd=cwd, env=tools)


def _modules() -> dict[str, Path]:
    """Returns the folders of the Go modules that contain CUE schemas."""
    wanted = {PERSES: VERSION, SPEC: SPEC_VERSION}
    return {
        module: Path(json.loads(_go("mod", "download", "-json", f"{module}@{version}"))["Dir"])
        for module, version in wanted.items()
    }


def _build(module: Path) -> None:
    """Builds the server and percli if they are missing."""
    if all((HOME / name).exists() for name in ("perses", "percli")):
        return
    print(f"building Perses {VERSION}, which takes minutes", file=sys.stderr)
    source = HOME / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(module, source, copy_function=shutil.copyfile)
    for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
        folder.chmod(0o755)  # Go's cache is read-only
    # The Go module does not contain the web pages, because a build makes the pages. The API does not need the pages.
    (source / "ui" / "embed.go").write_text('package ui\n\nimport "embed"\n\nvar embedFS embed.FS\n')
    _go("build", "-o", f"{HOME}/", "./cmd/perses", "./cmd/percli", cwd=source)
    shutil.rmtree(source)


def _extract(clone: Path, tag: str, folder: str, target: Path) -> None:
    """Copies a folder of a git tag to a target folder."""
    archive = subprocess.run(["git", "-C", clone, "archive", tag, folder], stdout=subprocess.PIPE, check=False)
    if archive.returncode:
        raise EppingError(f"{clone} has no tag {tag}: clone it with its tags")
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["tar", "-x", "-C", target], input=archive.stdout, check=True)


def _plugins(plugins: Path, shared: Path, modules: dict[str, Path], target: Path) -> Iterator[str]:
    """Writes the plugins of the release to the folders that the server reads. Yields their names and versions."""
    _extract(shared, VERSION, "cue", target / "shared")
    listed = (modules[PERSES] / "scripts" / "plugin" / "plugin.yaml").read_text()
    used = DASHBOARD.read_text()
    for name, version in re.findall(r'name: "(\w+)"\s+version: "([\w.-]+)"', listed):
        if name not in used:
            continue
        folder = target / "plugins" / name.lower()
        _extract(plugins, f"{name.lower()}/v{version}", name.lower(), folder.parent)
        manifest = {"id": name, "name": name, "metaData": {"buildInfo": {"buildVersion": version}}}
        (folder / "mf-manifest.json").write_text(json.dumps(manifest))
        # CUE looks for imports in pkg if module.cue has no dependencies.
        module = folder / "cue.mod" / "module.cue"
        module.write_text(re.sub(r"\ndeps: \{.*?\n\}", "", module.read_text(), flags=re.DOTALL))
        for path, source in {PERSES: modules[PERSES], SPEC: modules[SPEC], "github.com/perses/shared": None}.items():
            cue = (source or target / "shared") / "cue"
            shutil.copytree(cue, folder / "cue.mod" / "pkg" / path / "cue", copy_function=shutil.copyfile)
        shutil.rmtree(folder / "schemas" / "migrate", ignore_errors=True)  # these schemas import other plugins
        yield f"{name} {version}"


class Server:
    """A running Perses server without authentication."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def call(self, method: str, path: str, body: Json | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextmanager
def _serving(folder: Path) -> Iterator[Server]:
    config = {
        "database": {"file": {"folder": str(folder / "database"), "extension": "json"}},
        "plugin": {"path": str(folder / "plugins"), "archive_paths": [str(folder / "archives")]},
    }
    (folder / "archives").mkdir()
    (folder / "config.yaml").write_text(json.dumps(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command: list[str | Path] = [
        HOME / "perses",
        "--config",
        folder / "config.yaml",
        "--web.listen-address",
        f"127.0.0.1:{port}",
    ]
    with (folder / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            server, patience = Server(port), time.monotonic() + START_S
            while True:
                try:
                    server.call("GET", "v1/health")
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > patience:
                        raise EppingError(f"Perses did not start: {(folder / 'log').read_text()[-2000:]}") from None
                    time.sleep(0.2)
            yield server
        finally:
            process.terminate()


def _import(server: Server, folder: Path) -> None:
    """Imports the dashboard as docs/dashboards.md describes."""
    percli: list[str | Path] = [HOME / "percli", "--percliconfig", folder / "percli.json"]
    _run(*percli, "login", server.url)
    _run(*percli, "apply", "-f", DASHBOARD, "--project", PROJECT, "--create-project")


def _check(server: Server, folder: Path) -> Iterator[str]:
    """Yields a text for each error."""
    made = json.loads(DASHBOARD.read_text())
    _import(server, folder)
    path = f"v1/projects/{PROJECT}/dashboards"
    _, stored = server.call("GET", f"{path}/{made['metadata']['name']}")
    yield from (f"Perses does not know the field {field}" for field in lost(made, stored))
    for number, (error, spoil) in enumerate(SPOILED.items()):
        spoiled = copy.deepcopy(made)
        spoil(spoiled)
        spoiled["metadata"].update(name=f"spoiled-{number}", project=PROJECT)
        status, answer = server.call("POST", path, spoiled)
        if status == 200 and not lost(spoiled, answer):
            yield f"Perses accepts a dashboard with this error: {error}"
        print(f"{error}: {'dropped' if status == 200 else f'refused with {status}: {str(answer)[:150]}'}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Check examples/perses/dashboard.json with Perses.")
    parser.add_argument("plugins", type=Path, help="a clone of github.com/perses/plugins, with its tags")
    parser.add_argument("shared", type=Path, help="a clone of github.com/perses/shared, with its tags")
    given = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            modules = _modules()
            _build(modules[PERSES])
            print(f"Perses {VERSION} with", ", ".join(_plugins(given.plugins, given.shared, modules, folder)))
            with _serving(folder) as server:
                wrong = list(_check(server, folder))
    except EppingError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(wrong) or f"{DASHBOARD.name} is valid, and Perses finds each of {len(SPOILED)} errors")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
