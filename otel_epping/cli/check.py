# SPDX-License-Identifier: Apache-2.0
"""otel-epping check: reports missing requirements, the memory of the program, and other programs on the hooks.

The kernel program is compiled and loaded, but not attached. The reported memory is not an estimate, because the kernel
reports the memory of each map of a loaded program.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import click

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf, prefix_table
from otel_epping.kernel.attach import clsact, interfaces, other_programs, tcx
from otel_epping.kernel.attach.attachments import choose_hook
from otel_epping.kernel.attach.interface_monitor import present
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig, possible_cpus
from otel_epping.kernel.load import capabilities, requirements
from otel_epping.kernel.netlink import links
from otel_epping.kernel.read.histograms import BLOCK
from otel_epping.networks.databases import Databases
from otel_epping.networks.network import MAX_PREFIXES, Networks
from otel_epping.settings import names
from otel_epping.settings.model import Settings
from otel_epping.settings.options import COMMAND, check_options, option
from otel_epping.settings.types import Interfaces

_MIB = 2**20
# Maximum memory of the agent without subnets, and the additional memory for each subnet of --max-subnets if all slots,
# histograms and blocks are in use. Measured with one exporter: 7.6 kB with cumulative temporality, 9.1 kB with delta
# temporality (docs/performance.md).
_AGENT_BYTES = 90 * _MIB
_AGENT_BYTES_PER_SUBNET = 10 * 1024
# Additional memory of the agent for each prefix of a named network, while the file is read again (docs/networks.md).
_AGENT_BYTES_PER_PREFIX = 2700
# The checks in _ENVIRONMENT are reported only if they fail.
_ENVIRONMENT: dict[str, Callable[[], object]] = {
    "file systems": requirements.check_file_systems,
    "user namespace": requirements.check_user_namespace,
    "open files": requirements.check_open_files,
    "threads": requirements.check_threads,
}
_PER_CPU_MAPS = ("traffic", "interface_counters", "slot_cache", "packets")


@dataclass(frozen=True)
class Finding:
    """One line of the report. If `ok` is False, the text contains the cause and the cure."""

    name: str
    ok: bool
    text: str
    detail: str = ""


def _find(name: str, check: Callable[[], object]) -> Finding:
    """Runs a check and returns its result. The check returns a text, or raises EppingError if it fails."""
    try:
        return Finding(name, True, str(check()))
    except EppingError as error:
        return Finding(name, False, str(error), error.detail)


def _hook(config: EppingConfig) -> str:
    """Returns a description of the hook that the agent would use.

    To find out whether the kernel supports TCX, tcx.is_known() lists the TCX programs of the loopback interface. It
    changes nothing.
    """
    if config.hook != "clsact":
        if tcx.is_known():
            return "TCX links; the kernel detaches the program when the agent ends"
        if config.hook == "tcx":
            raise EppingError("the kernel does not support TCX hooks: use Linux 6.6 or newer, or --hook auto")
    reason = "set by --hook" if config.hook == "clsact" else "the kernel does not support TCX"
    return f"clsact filters ({reason}); the agent keeps CAP_NET_ADMIN to remove the filters when it ends"


def _run_time() -> str:
    if kept := capabilities.needed_at_run_time():
        return capabilities.describe(kept)
    return "after the program is loaded, the agent needs no capability, not even to attach to a new interface"


def _memory(collector: EppingCollector) -> str:
    sizes = collector.kernel_bytes
    per_cpu = sum(sizes[name] for name in _PER_CPU_MAPS) / possible_cpus()
    total = sum(sizes.values())
    agent = _AGENT_BYTES + _AGENT_BYTES_PER_SUBNET * collector.config.max_subnets
    return (
        f"{total / _MIB:.1f} MiB in the kernel for --max-subnets {collector.config.max_subnets} at scale "
        f"{collector.config.scale} and {collector.config.max_flows} flows ({per_cpu / _MIB:.1f} MiB of it for each of "
        f"{possible_cpus()} CPUs); at most {agent / _MIB:.0f} MiB in the agent for each exporter if all tables are full"
    )


def _networks(networks: Networks, config: EppingConfig) -> str:
    """Returns the number of named networks, and the memory that they take while they are changed."""
    prefixes = len(networks.prefixes)
    kernel, agent = prefix_table.kernel_bytes(networks, config), _AGENT_BYTES_PER_PREFIX * prefixes
    per_prefix = [f"{each / prefixes * MAX_PREFIXES / _MIB:.0f} MiB" for each in (kernel, agent)]
    return (
        f"{len(networks.networks):,} named networks with {prefixes:,} prefixes: at most {kernel / _MIB:.1f} MiB in the "
        f"kernel and about {agent / _MIB:.1f} MiB in the agent ({per_prefix[0]} and {per_prefix[1]} for each "
        f"{MAX_PREFIXES:,} prefixes)"
    )


def _database(path: str) -> str:
    """Returns a text about a database that can be used. Raises EppingError if the database cannot be used."""
    Databases([path])
    return f"{path} is valid"


def _room(collector: EppingCollector) -> str:
    config = collector.config
    return (
        f"{config.max_subnets} subnets that are seen on two interfaces, or {2 * config.max_subnets} that are seen on "
        f"one: {config.max_slots} slots, of which {config.reserve} stay free for new subnets, {config.max_histograms} "
        f"histograms, {config.max_blocks} blocks of {BLOCK} buckets"
    )


def _verifier(collector: EppingCollector) -> str:
    time = f"{collector.program.verifier_s:.2f} s"
    counts = collector.verified_instructions
    if counts is None:
        return f"verified in {time}; this kernel does not report the number of instructions (Linux 5.16 and newer do)"
    each = ", ".join(f"{name.removeprefix('epping_')} {count:,}" for name, count in counts.items())
    return f"{each} instructions verified, in {time}"


def _each_method(config: EppingConfig) -> Iterator[Finding]:
    """For each RTT method, compiles a program with only this method, and yields the report of the verifier."""
    for method in config.methods:
        try:
            with EppingCollector(replace(config, methods=(method,))) as collector:
                yield Finding(method, True, _verifier(collector))
        except EppingError as error:
            yield Finding(method, False, str(error), error.detail)


_ORDER = {
    True: "runs before otel-epping, and hides the packets that it accepts, drops or redirects",
    False: "runs after otel-epping: no packets are hidden",
}


def _neighbours(name: str, config: EppingConfig) -> Iterator[Finding]:
    """Yields a line for each program and each filter on the hooks of an interface, in the order in which they run."""
    ifindex, hook = interfaces.find(name).ifindex, choose_hook(config.hook)
    if hook == "clsact":
        clsact.refuse_ingress_qdisc(ifindex)
    if warning := other_programs.warning_of(links.device(ifindex)):
        yield Finding(name, False, warning)
    places: Counter[str] = Counter()
    for each in other_programs.on_hooks(ifindex, hook):
        places[each.hook] += 1
        order = "otel-epping" if each.is_ours else _ORDER[each.is_before]
        yield Finding(name, True, f"{each.hook} {places[each.hook]}: {each.text}: {order}")
    if not places:
        yield Finding(name, True, "no other program or filter is on the hooks of this interface")


def interface_findings(texts: Sequence[str], config: EppingConfig) -> Iterator[Finding]:
    """Yields the lines of the report about interfaces.

    Each text in `texts` selects interfaces: it is a name, a pattern, or `auto`.
    """
    try:
        for name in present(texts):
            try:
                yield from _neighbours(name, config)
            except OSError as error:
                text = f"cannot list the programs on the hooks ({error.strerror}): run as root, or with CAP_NET_ADMIN"
                yield Finding(name, False, text)
            except EppingError as error:
                yield Finding(name, False, str(error))
    except EppingError as error:
        yield Finding("interface", False, str(error))


@click.command(context_settings=COMMAND)
@option("-v", "--verbose", is_flag=True,
              help="Also print how many instructions the verifier processes, in total and for each "
              "method.")  # fmt: skip
@option("-i", "--interface", envvar="OTEL_EPPING_INTERFACE", type=Interfaces(), multiple=True,
              help="Also print the programs on the hooks of this interface, their order, and whether they can hide "
              "packets from otel-epping. May be given several times.")  # fmt: skip
@check_options
def check(settings: Settings, interface: tuple[str, ...], verbose: bool) -> None:
    """Check whether this machine can run otel-epping.

    Compiles and loads the kernel program without attaching it, and prints the memory that the program takes. Also
    checks the file of named networks and the databases. For each missing requirement, prints the cure. The exit code is
    1 if a requirement is missing or a file is invalid.
    """
    missing = 0
    of_interfaces = interface_findings(interface, settings.kernel) if interface else ()
    for finding in chain(findings(settings, verbose), of_interfaces):
        missing += not finding.ok
        click.echo(f"{'ok     ' if finding.ok else 'MISSING'} {finding.name:14} {finding.text}")
        if finding.detail:
            click.echo(finding.detail, err=True)
    sys.exit(1 if missing else 0)


def findings(settings: Settings, verbose: bool = False) -> Iterator[Finding]:
    """Yields the lines of the report about the machine, in the order in which the loader needs the requirements.

    With `verbose`, also yields the reports of the verifier.
    """
    config = settings.kernel
    yield _find("kernel", lambda: f"{requirements.check_kernel()}: {requirements.tested_kernel()}")
    yield _find("BTF", requirements.describe_btf)
    for name, check_environment in _ENVIRONMENT.items():
        if not (finding := _find(name, check_environment)).ok:
            yield finding
            return
    held = [_find(name, partial(requirements.check_capability, name)) for name in capabilities.NEEDED]
    yield from held
    yield _find("locked memory", requirements.check_locked_memory)
    library = _find("libbpf", libbpf.version)
    yield library
    if not library.ok:
        return
    if all(each.ok for each in held) and not (system_call := _find("bpf()", requirements.check_bpf)).ok:
        yield system_call
        return
    yield _find("hook", partial(_hook, config))
    networks = None
    try:
        networks = names.read(settings, settings.networks) if settings.networks else None
    except EppingError as error:
        yield from (Finding("networks", False, line) for line in str(error).splitlines())
    databases = [_find("database", partial(_database, path)) for path in settings.database]
    yield from databases
    if databases and all(each.ok for each in databases):
        try:
            names.check_databases(settings, Databases(settings.database))
        except EppingError as error:
            yield Finding("database", False, str(error))
    try:
        with EppingCollector(config, networks=networks) as collector:
            program = collector.program
            tried = requirements.tested_bcc(program.bcc_version)
            yield Finding("compiler", True, f"{program.compiler}, in {program.interpreter}: {tried}")
            yield Finding("program", True, "compiled, and accepted by the verifier")
            yield Finding("run time", True, _run_time())
            yield Finding("room", True, _room(collector))
            yield Finding("memory", True, _memory(collector))
            if networks:
                yield Finding("networks", True, _networks(networks, config))
                yield from (Finding("networks", True, warning) for warning in names.warnings(settings, networks))
            if verbose:
                yield Finding("verifier", True, _verifier(collector))
    except EppingError as error:
        yield Finding("program", False, str(error), error.detail)
        return
    if verbose:
        yield from _each_method(config)
