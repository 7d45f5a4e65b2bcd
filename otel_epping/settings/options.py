# SPDX-License-Identifier: Apache-2.0
"""Settings as options of commands: flags, variables and --config, made from the table in otel_epping/settings."""

import os
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import click

from otel_epping.errors import EppingError
from otel_epping.settings import file
from otel_epping.settings.model import BOUNDS, PREFIX, SETTINGS, Setting, Settings
from otel_epping.settings.types import text_of

# Of each command.
COMMAND: dict[str, Any] = {"auto_envvar_prefix": PREFIX.rstrip("_"), "show_default": True, "max_content_width": 110}

# Kubernetes sets these for a Service whose name begins with otel-epping, in pods with enableServiceLinks (the default).
_OF_KUBERNETES = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
# The value of NAME_PORT among them, which may have the name of a setting. No setting takes such a value.
_ADDRESS_OF_SERVICE = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


class _Option(click.Option):
    """An option that may be set by a variable: then an error names the variable, and not the flag."""

    def _variable(self, ctx: click.Context) -> str:
        return str(self.envvar or f"{ctx.auto_envvar_prefix}_{self.name or ''}".upper())

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value, unless a Service of Kubernetes has set it."""
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and _is_of_service(self._variable(ctx), value) else value

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """What an error names: where the wrong value is from."""
        if ctx and ctx.get_parameter_source(self.name or "") is click.core.ParameterSource.ENVIRONMENT:
            return f"variable {self._variable(ctx)}"
        return super().get_error_hint(ctx)


option = partial(click.option, cls=_Option)


def _is_of_service(variable: str, value: str) -> bool:
    return variable.endswith("_PORT") and _ADDRESS_OF_SERVICE.fullmatch(value.strip()) is not None


def ignored_variables() -> dict[str, str]:
    """Variables with our prefix that a Service of Kubernetes has set, and their values."""
    ours = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}
    known = {setting.variable for setting in SETTINGS}
    return {
        name: value
        for name, value in ours.items()
        if _is_of_service(name, value) or (name not in known and _OF_KUBERNETES.fullmatch(name))
    }


def _read_file(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Has Click take from a file what neither a flag nor a variable says."""
    if path is not None:
        with naming_source(ctx, ["config"]):
            given = file.read(path)
        ctx.default_map = {field: each.value for field, each in given.items()}
        ctx.obj = {field: each.where for field, each in given.items()}
    return path


_CONFIG = _Option(
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
    return _Option(
        [*([row.short] if row.short else []), flags, setting.field],
        type=row.type,
        default=",".join(default) if isinstance(default, list) and not setting.several else default,
        show_default=row.unset or True,
        multiple=setting.several,
        envvar=setting.variable,
        help=row.help,
    )


def _check_variables(ctx: click.Context) -> None:
    """Raises EppingError for a variable with our prefix that no command has, and no Service of Kubernetes sets."""
    group = ctx.find_root().command
    commands = group.commands.values() if isinstance(group, click.Group) else (ctx.command,)
    known = {setting.variable for setting in SETTINGS}
    known |= {PREFIX + (each.name or "").upper() for command in commands for each in command.params}
    for name in sorted(os.environ.keys() - known - ignored_variables().keys()):
        if name.startswith(PREFIX):
            settings = [setting.variable for setting in SETTINGS]
            raise EppingError(f"there is no variable {name}: {file.nearest(name, settings)}")


def _with_options(settings: list[Setting], command: Callable[..., Any], arguments: Callable[..., Any]) -> Any:
    """A command with options for some settings, which arrive as what `arguments` makes of their values."""

    @click.pass_context
    def configured(ctx: click.Context, /, **given: Any) -> Any:
        _check_variables(ctx)
        del given["config"]
        values = {setting.field: given.pop(setting.field) for setting in settings}
        with naming_source(ctx, BOUNDS):
            checked = Settings(**values)
        return command(**arguments(checked), **given)

    configured.__doc__ = command.__doc__
    configured.__name__ = command.__name__
    params = getattr(command, "__click_params__", [])
    configured.__click_params__ = [_CONFIG, *reversed([_option(each) for each in settings]), *params]  # type: ignore[attr-defined]
    return configured


def _config(settings: Settings) -> dict[str, Any]:
    return {"config": settings.kernel}


def kernel_options(command: Callable[..., Any]) -> Any:
    """Options that are knobs of the kernel program; they arrive as one EppingConfig, `config`."""
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
    return {setting.field: _source(ctx, setting.field) or "default" for setting in SETTINGS}


def _source(ctx: click.Context, field: str) -> str:
    """The flag, variable or line of a file that an option's value is from; '' for a default."""
    name = field.removesuffix("_ns")
    source = ctx.get_parameter_source(field)
    if source is click.core.ParameterSource.COMMANDLINE:
        return "--" + name.replace("_", "-")
    if source is click.core.ParameterSource.ENVIRONMENT:
        return PREFIX + name.upper()
    lines: dict[str, str] = ctx.obj or {}
    return lines.get(field, "") if source is click.core.ParameterSource.DEFAULT_MAP else ""


@contextmanager
def naming_source(ctx: click.Context, fields: Collection[str]) -> Iterator[None]:
    """Names the variables and lines of a file that set `fields` in an EppingError that the body raises."""
    try:
        yield
    except EppingError as error:
        found = [_source(ctx, field) for field in sorted(fields)]
        where = ", ".join(each for each in found if each and not each.startswith("--"))
        raise EppingError(f"{where}: {error}", error.detail) if where else error from error.__cause__


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
