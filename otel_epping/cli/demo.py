# SPDX-License-Identifier: Apache-2.0
"""otel-epping demo: measures RTTs over links of known delay."""

import os
import shlex
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click

from otel_epping.errors import EppingError
from otel_epping.kernel.attach.default_routes import DefaultRoutes
from otel_epping.kernel.load import requirements
from otel_epping.kernel.netlink import links
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, option


@click.command(context_settings=COMMAND)
@option("--report", "output", metavar="FILE", help="Also write an HTML report about the demo to FILE.")
def demo(output: str | None) -> None:
    """Measure RTTs over links of known delay, and print the metrics that a collector received.

    Creates hosts in network namespaces and traffic between the hosts, and runs the agent and a collector. One network
    becomes slow under load. The demo takes half a minute. The exit code is 1 if the measured RTTs do not agree
    with the delays.
    """
    requirements.check_kernel()
    requirements.check_privileges()
    from otel_epping.lab import demo as lab_demo  # this module needs the package rich

    agrees = lab_demo.run() if output is None else _with_report(Path(output).resolve())
    click.echo("\nNext, on your own interface:\n")
    for arguments in ("top -i {}", "report -i {} --duration 5m -o report.html"):
        click.echo(f"    {_program()} {arguments.format(_own_interface())}")
    if not agrees:
        raise EppingError("some RTTs do not agree with the delays: is the machine overloaded? Run the demo again")


def _with_report(output: Path) -> bool:
    """Runs the demo, and writes a report about the metrics that the agent exported. Returns the result of the demo."""
    if missing := [name for name in ("msgspec", "plotly") if find_spec(name) is None]:
        raise EppingError(f"the report needs {' and '.join(missing)}: pip install 'otel-epping[report]'")
    from otel_epping.history.verdict import Thresholds
    from otel_epping.lab import demo as lab_demo
    from otel_epping.report.output_file import OutputFile
    from otel_epping.report.run import ReportOptions, run
    from otel_epping.series.grouping import Grouping
    from otel_epping.settings import names

    OutputFile(output)  # finds errors of the path before the demo runs
    with tempfile.TemporaryDirectory(prefix="otel-epping-") as folder:
        record = Path(folder, "demo")
        agrees = lab_demo.run(record)
        options = ReportOptions([str(record)], str(output), "html", 0, Thresholds(), is_merged=False, is_redacted=False)
        settings = Settings()
        run(settings, names.open_files(settings), Grouping(), options)
    return agrees


def _program() -> str:
    """Returns the program that this process runs, as a part of a shell command."""
    words = [sys.executable, "-m", "otel_epping"] if sys.argv[0].endswith("__main__.py") else [sys.argv[0]]
    return shlex.join(["sudo", *words] if "SUDO_USER" in os.environ else words)


def _own_interface() -> str:
    """Returns the name of the first interface with a default route, or `eth0` if no interface has a default route."""
    existing, routes = list(links.links()), DefaultRoutes()
    routes.refresh(existing)
    return next((link.name for link in existing if link.ifindex in routes.interfaces), "eth0")
