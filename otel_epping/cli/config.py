# SPDX-License-Identifier: Apache-2.0
"""otel-epping config: prints each setting in effect and its source."""

import json

import click

from otel_epping.settings.definitions import DEFINITIONS
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, all_options, option, sources
from otel_epping.settings.types import text_of


@click.command(context_settings=COMMAND)
@option("--schema", is_flag=True, help="Print the JSON schema of the settings file instead of the settings.")
@all_options
def config(settings: Settings, schema: bool) -> None:
    """Print each setting in effect and its source.

    The output is a valid settings file. A source is a flag, a variable, a line of the settings file, or the default.
    """
    if schema:
        from otel_epping.settings.schema import schema as schema_of_file

        click.echo(json.dumps(schema_of_file(), indent=2))
        return
    import yaml

    source = sources(click.get_current_context())
    for each in DEFINITIONS:
        value = text_of(each.spec.type, getattr(settings, each.field))
        text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**30).removesuffix("...\n")
        click.echo(f"{each.key + ': ' + text.rstrip():40} # {source[each.field]}")
