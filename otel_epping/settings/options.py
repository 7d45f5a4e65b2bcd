# SPDX-License-Identifier: Apache-2.0
"""Creates the Click options of the settings: the flags, their environment variables, and --config for the file."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

import click
from click.core import ParameterSource

from otel_epping.errors import EppingError
from otel_epping.kernel.attach import interfaces
from otel_epping.settings import file
from otel_epping.settings.definitions import (
    AGENT_SETTINGS,
    DEFINITIONS,
    METRIC_SETTINGS,
    NETWORK_SETTINGS,
    PREFIX,
    SERIES_SETTINGS,
    Definition,
)
from otel_epping.settings.model import INTERFACE_SETTINGS, Settings
from otel_epping.settings.spec import ContradictionError
from otel_epping.settings.types import text_of

# The context settings of Click for all commands.
COMMAND: dict[str, Any] = {"auto_envvar_prefix": PREFIX.rstrip("_"), "show_default": True, "max_content_width": 110}

# Matches the variables that Kubernetes sets in each pod for a Service. If the name of the Service starts with
# otel-epping, the names of the variables have our prefix. Kubernetes sets no variables for Services in a pod with
# enableServiceLinks: false.
_KUBERNETES_VARIABLE = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
# For a Service, Kubernetes sets a variable NAME_PORT to an address such as tcp://10.0.0.1:80. If a setting has the same
# variable, the value shows whether Kubernetes set the variable, because no setting allows a value such as
# tcp://10.0.0.1:80.
_SERVICE_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")


class _Option(click.Option):
    """An option whose error messages contain the source of the value: the variable or the flag."""

    def _variable(self, ctx: click.Context) -> str:
        return str(self.envvar or f"{ctx.auto_envvar_prefix}_{self.name or ''}".upper())

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Returns the value of the variable, or None if Kubernetes has set the variable for a Service."""
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and _is_service_address(self._variable(ctx), value) else value

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Returns the source of a wrong value, for error messages."""
        if ctx and ctx.get_parameter_source(self.name or "") is ParameterSource.ENVIRONMENT:
            return f"variable {self._variable(ctx)}"
        return super().get_error_hint(ctx)


option = partial(click.option, cls=_Option)


def _is_service_address(variable: str, value: str) -> bool:
    return variable.endswith("_PORT") and _SERVICE_ADDRESS.fullmatch(value.strip()) is not None


def ignored_variables() -> dict[str, str]:
    """Returns the variables with our prefix that Kubernetes has set for a Service, and their values."""
    ours = {name: value for name, value in sorted(os.environ.items()) if name.startswith(PREFIX)}
    known = {definition.variable for definition in DEFINITIONS}
    return {
        name: value
        for name, value in ours.items()
        if _is_service_address(name, value) or (name not in known and _KUBERNETES_VARIABLE.fullmatch(name))
    }


def _check_variables(ctx: click.Context) -> None:
    """Raises EppingError if a variable has our prefix, but belongs neither to an option nor to a Service."""
    group = ctx.find_root().command
    commands = group.commands.values() if isinstance(group, click.Group) else (ctx.command,)
    known = {definition.variable for definition in DEFINITIONS}
    known |= {PREFIX + (param.name or "").upper() for command in commands for param in command.params}
    for name in sorted(os.environ.keys() - known - ignored_variables().keys()):
        if name.startswith(PREFIX):
            variables = [definition.variable for definition in DEFINITIONS]
            raise EppingError(f"there is no variable {name}: {file.suggestion(name, variables)}")


def _read_file(ctx: click.Context, _: click.Parameter, path: str | None) -> str | None:
    """Reads the settings file, and passes its values to Click as defaults, which flags and variables override."""
    if path is not None:
        with naming_source(ctx, ["config"]):
            given = file.read(path)
        ctx.default_map = {field: each.value for field, each in given.items()}
        ctx.obj = {field: each.where for field, each in given.items()}
    return path


_config_option = option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    is_eager=True,
    callback=_read_file,
    help="YAML file of settings. Flags and variables take precedence.",
)


def _option_of(definition: Definition) -> Callable[..., Any]:
    """Returns the decorator that adds the option of a setting to a command."""
    spec, flag = definition.spec, definition.flag
    default = text_of(spec.type, definition.default)
    return option(
        *([spec.short] if spec.short else []),
        f"{flag}/--no-{flag.removeprefix('--')}" if spec.type is click.BOOL else flag,
        definition.field,
        type=spec.type,
        default=",".join(default) if isinstance(default, list) and not definition.multiple else default,
        show_default=spec.unset or True,
        multiple=definition.multiple,
        envvar=definition.variable,
        help=spec.help,
    )


def _with_options(
    definitions: Sequence[Definition],
    command: Callable[..., Any],
    arguments: Callable[[Settings], dict[str, Any]],
    unchecked: Collection[str] = (),
) -> Callable[..., Any]:
    """Returns the command with an option for each setting in `definitions`.

    `arguments` converts the settings to arguments of the command. The command receives the values of the fields in
    `unchecked` as further arguments, and these fields of the settings have their defaults.
    """

    @click.pass_context
    @wraps(command)
    def configured(ctx: click.Context, /, **given: Any) -> Any:
        _check_variables(ctx)
        del given["config"]
        values = {each.field: given.pop(each.field) for each in definitions if each.field not in unchecked}
        with naming_source(ctx):
            settings = Settings(**values)
        return command(**arguments(settings), **given)

    # The decorators are applied in reverse order, because a decorator adds its option before all options that were
    # added earlier.
    for decorator in (_config_option, *map(_option_of, reversed(definitions))):
        configured = decorator(configured)
    return configured


def _kernel_config(settings: Settings) -> dict[str, Any]:
    return {"config": settings.kernel}


def kernel_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the kernel program. The command receives the option values as `config`, an EppingConfig."""
    return _with_options([each for each in DEFINITIONS if each.spec.kernel], command, _kernel_config)


def check_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the kernel program and of networks. The command receives the option values as `settings`."""
    definitions = [each for each in DEFINITIONS if each.spec.kernel or each.field in NETWORK_SETTINGS]
    return _with_options(definitions, command, lambda settings: {"settings": settings})


def capture_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of the kernel program, of networks and of exports, except the options about interfaces and time.

    The command receives the option values as `settings`.
    """
    exported = METRIC_SETTINGS | SERIES_SETTINGS | NETWORK_SETTINGS
    definitions = [
        each for each in DEFINITIONS if (each.spec.kernel and not each.spec.live_only) or each.field in exported
    ]
    return _with_options(definitions, command, lambda settings: {"settings": settings})


def export_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options that affect what is exported. The command receives the option values as `settings`."""
    definitions = [each for each in DEFINITIONS if each.field not in AGENT_SETTINGS]
    return _with_options(definitions, command, lambda settings: {"settings": settings})


def view_options(command: Callable[..., Any], unchecked: Collection[str] = ()) -> Callable[..., Any]:
    """Adds the options about interfaces, the kernel program and networks, for commands that show networks.

    The command receives the option values as `settings`, and the values of the fields in `unchecked` separately.
    """
    left_out = {*AGENT_SETTINGS, *METRIC_SETTINGS, *SERIES_SETTINGS, "interval_ns"}
    definitions = [each for each in DEFINITIONS if each.field not in left_out]
    return _with_options(definitions, command, lambda settings: {"settings": settings}, unchecked)


def all_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of all settings. The command receives the option values as `settings`."""
    return _with_options(DEFINITIONS, command, lambda settings: {"settings": settings})


def sources(ctx: click.Context) -> dict[str, str]:
    """Maps each field of Settings to the source of its value: a flag, a variable, a line of a file, or `default`."""
    return {definition.field: _source(ctx, definition.field) or "default" for definition in DEFINITIONS}


def _source(ctx: click.Context, field: str) -> str:
    """Returns the flag, the variable or the line of the file that sets an option. Returns '' for a default value."""
    name = field.removesuffix("_ns")
    source = ctx.get_parameter_source(field)
    if source is ParameterSource.COMMANDLINE:
        return "--" + name.replace("_", "-")
    if source is ParameterSource.ENVIRONMENT:
        return PREFIX + name.upper()
    lines: dict[str, str] = ctx.obj or {}
    return lines.get(field, "") if source is ParameterSource.DEFAULT_MAP else ""


@contextmanager
def naming_source(ctx: click.Context, fields: Collection[str] = ()) -> Iterator[None]:
    """Adds the sources of the settings in `fields` to the start of an EppingError's message.

    The error comes from the body of the `with` statement. If the error is a ContradictionError, the sources of its
    settings are added instead. A source is a variable or a line of the settings file. Flags are not added.
    """
    try:
        yield
    except EppingError as error:
        if isinstance(error, ContradictionError):
            fields = error.fields
        found = [_source(ctx, field) for field in sorted(fields)]
        where = ", ".join(each for each in found if each and not each.startswith("--"))
        raise EppingError(f"{where}: {error}", error.detail) if where else error from error.__cause__


def check_choice(ctx: click.Context, settings: Settings, others: Collection[str], what: str) -> None:
    """Raises UsageError if both or neither of interfaces and `others` are given. `what` is the name of the others."""
    if others and any(ctx.get_parameter_source(each) is ParameterSource.COMMANDLINE for each in INTERFACE_SETTINGS):
        raise click.UsageError(f"Choose either interfaces or {what}.")
    if not others and not settings.selection.all:
        raise click.UsageError(f"Missing option '-i' / '--interface', or '--lan', or '--mirror', or {what}.")


def find_interfaces(ctx: click.Context, settings: Settings) -> None:
    """Raises EppingError if an interface that the settings name does not exist, or cannot be watched."""
    for name in settings.selection.names:
        with naming_source(ctx, [next(each for each in INTERFACE_SETTINGS if name in getattr(settings, each))]):
            interfaces.find(name)


def reread(ctx: click.Context, settings: Settings) -> Settings:
    """Reads the settings file again, and returns the new settings. Raises EppingError if the file is invalid.

    Values from flags and variables are kept. A setting without a flag, a variable or a line in the file gets its
    default.
    """
    path = ctx.params.get("config")
    given = file.read(path) if path else {}
    values = {}
    for definition in DEFINITIONS:
        source = ctx.get_parameter_source(definition.field)
        if source in (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT):
            values[definition.field] = getattr(settings, definition.field)
        elif definition.field in given:
            values[definition.field] = given[definition.field].value
    return Settings(**values)
