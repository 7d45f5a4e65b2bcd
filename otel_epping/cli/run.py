# SPDX-License-Identifier: Apache-2.0
"""otel-epping run: starts the agent."""

import logging
from functools import partial

import click

from otel_epping.errors import EppingError
from otel_epping.process import logs
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, all_options, find_interfaces, ignored_variables, naming_source, reread

_log = logging.getLogger(__name__)


@click.command(context_settings=COMMAND)
@all_options
def run(settings: Settings) -> None:
    """Watch interfaces and export their counts, until Ctrl-C or SIGTERM."""
    if not settings.selection.all:
        raise click.UsageError("Missing option '-i' / '--interface', or '--lan', or '--mirror'.")
    logs.configure(settings.log_format, settings.log_level)
    for name, value in ignored_variables().items():
        _log.debug("ignored a variable that Kubernetes sets for a Service: %s=%s", name, value)
    context = click.get_current_context()
    find_interfaces(context, settings)
    from otel_epping.agent.run import run as run_agent  # slow, because the module imports the exporters

    with naming_source(context):
        is_delivered = run_agent(settings, partial(reread, context))
    if not is_delivered:
        raise EppingError("the last interval was not delivered: is OTEL_EXPORTER_OTLP_ENDPOINT right?")
