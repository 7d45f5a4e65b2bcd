# SPDX-License-Identifier: Apache-2.0
"""Settings as options of commands: flags, variables and --config, made from the table in otel_epping/settings."""

import os
import re
from collections.abc import Callable
from typing import Any

import click

from otel_epping.kernel.errors import EppingError
from otel_epping.settings import PREFIX, SETTINGS, Setting, Settings, file
from otel_epping.settings.types import text_of

# Of each command.
COMMAND: dict[str, Any] = {"auto_envvar_prefix": PREFIX.rstrip("_"), "show_default": True, "max_content_width": 110}

# What Kubernetes sets for a service called otel-epping, or otel-epping-collector.
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def _read_file(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Has Click take from a file what neither a flag nor a variable says."""
    if path is not None:
        given = file.read(path)
        ctx.default_map = {field: each.value for field, each in given.items()}
        ctx.obj = {field: each.where for field, each in given.items()}
    return path


_CONFIG = click.Option(
    ["--config"],
    type=click.Path(),
    metavar="FILE",
    is_eager=True,
    callback=_read_file,
    help="YAML file of settings, for what neither a flag nor a variable says.",
)


def _option(setting: Setting) -> click.Option:
    row = setting.row
    default = text_of(row.type, setting.default)
    flags = f"{setting.flag}/--no-{setting.flag.removeprefix('--')}" if row.type is click.BOOL else setting.flag
    return click.Option(
        [*([row.short] if row.short else []), flags, setting.field],
        type=row.type,
        default=",".join(default) if isinstance(default, list) and not setting.several else default,
        show_default=row.unset or True,
        multiple=setting.several,
        envvar=setting.variable,
        help=row.help,
    )


def _check_variables(ctx: click.Context) -> None:
    """Raises EppingError for a variable with our prefix that no command has."""
    group = ctx.find_root().command
    commands = group.commands.values() if isinstance(group, click.Group) else (ctx.command,)
    known = {setting.variable for setting in SETTINGS}
    known |= {PREFIX + (each.name or "").upper() for command in commands for each in command.params}
    for name in sorted(os.environ.keys() - known):
        if name.startswith(PREFIX) and not _OF_KUBERNETES.fullmatch(name):
            settings = [setting.variable for setting in SETTINGS]
            raise EppingError(f"there is no variable {name}: {file.nearest(name, settings)}")


def _with_options(settings: list[Setting], command: Callable[..., Any], arguments: Callable[..., Any]) -> Any:
    """A command with options for some settings, which arrive as what `arguments` makes of their values."""

    @click.pass_context
    def configured(ctx: click.Context, /, **given: Any) -> Any:
        _check_variables(ctx)
        del given["config"]
        values = {setting.field: given.pop(setting.field) for setting in settings}
        return command(**arguments(Settings(**values)), **given)

    configured.__doc__ = command.__doc__
    configured.__name__ = command.__name__
    params = getattr(command, "__click_params__", [])
    configured.__click_params__ = [_CONFIG, *reversed([_option(each) for each in settings]), *params]  # type: ignore[attr-defined]
    return configured


def _config(settings: Settings) -> dict[str, Any]:
    return {"config": settings.kernel}


def kernel_options(command: Callable[..., Any]) -> Any:
    """Options that are knobs of the kernel program; they arrive as one KernelConfig, `config`."""
    return _with_options([setting for setting in SETTINGS if setting.row.kernel], command, _config)


def capture_options(command: Callable[..., Any]) -> Any:
    """The same, but for those of interfaces: who looks at captures has none."""
    knobs = [setting for setting in SETTINGS if setting.row.kernel and not setting.row.attaches]
    return _with_options(knobs, command, _config)


def all_options(command: Callable[..., Any]) -> Any:
    """Options for all settings; they arrive as `settings`."""
    return _with_options(list(SETTINGS), command, lambda settings: {"settings": settings})


def sources(ctx: click.Context) -> dict[str, str]:
    """Where the value of each setting is from, by its field: a flag, a variable, a line of a file, or `default`."""
    where = {}
    for setting in SETTINGS:
        source = ctx.get_parameter_source(setting.field)
        where[setting.field] = {
            click.core.ParameterSource.COMMANDLINE: setting.flag,
            click.core.ParameterSource.ENVIRONMENT: setting.variable,
            click.core.ParameterSource.DEFAULT_MAP: (ctx.obj or {}).get(setting.field, ""),
        }.get(source, "default")  # type: ignore[arg-type]
    return where


def reread(ctx: click.Context, settings: Settings) -> Settings:
    """The same settings, with what the file says by now. Raises EppingError if it is no good."""
    path = ctx.params.get("config")
    given = file.read(path) if path else {}
    values = {}
    for setting in SETTINGS:
        source = ctx.get_parameter_source(setting.field)
        if source in (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT):
            values[setting.field] = getattr(settings, setting.field)
        elif setting.field in given:
            values[setting.field] = given[setting.field].value
    return Settings(**values)
