# SPDX-License-Identifier: Apache-2.0
"""otel-epping config: which settings hold, and why."""

import json

import click

from otel_epping.settings.model import SETTINGS, Settings
from otel_epping.settings.options import COMMAND, all_options, option, sources
from otel_epping.settings.types import text_of


@click.command(context_settings=COMMAND)
@option("--schema", is_flag=True, help="Print the JSON schema of the file instead.")
@all_options
def config(settings: Settings, schema: bool) -> None:
    """Print the settings that hold with these options, variables and file, as a file, and where each is from."""
    if schema:
        from otel_epping.settings.schema import schema as schema_of_file

        click.echo(json.dumps(schema_of_file(), indent=2))
        return
    import yaml

    where = sources(click.get_current_context())
    for setting in SETTINGS:
        value = text_of(setting.row.type, getattr(settings, setting.field))
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**30).removesuffix("...\n")
        click.echo(f"{setting.key + ': ' + text.rstrip():40} # {where[setting.field]}")
