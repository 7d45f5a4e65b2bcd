# SPDX-License-Identifier: Apache-2.0
"""`otel-epping check`: does this machine have what it takes, what would the program take of it, and who else is on the
hooks of an interface?

The memory is no estimate: the program is compiled and loaded for real, attached to nothing, and its maps are
weighed by the kernel's own account.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from otel_epping.kernel import clsact, interfaces, libbpf, neighbours, privileges, requirements, rtnetlink, tcx
from otel_epping.kernel.attachments import choose_hook
from otel_epping.kernel.collector import Collector
from otel_epping.kernel.config import KernelConfig, possible_cpus
from otel_epping.kernel.errors import EppingError
from otel_epping.kernel.follower import present

_MIB = 2**20
# What the agent takes by itself, and of each subnet that is active, at the most (docs/performance.md).
_AGENT_BYTES = 90 * _MIB
_AGENT_BYTES_A_SUBNET = 2048
# Reported only where one of them is not as usual.
_SURROUNDINGS: dict[str, Callable[[], object]] = {
    "file systems": requirements.file_systems,
    "user namespace": requirements.user_namespace,
    "open files": requirements.open_files,
    "threads": requirements.threads,
}
_PER_CPU = ("traffic", "interface_counters", "slot_cache", "packets")


@dataclass(frozen=True)
class Finding:
    """One line of the report: what is there, or what is missing and the cure."""

    name: str
    ok: bool
    text: str
    detail: str = ""


def _find(name: str, look: Callable[[], object]) -> Finding:
    try:
        return Finding(name, True, str(look()))
    except EppingError as error:
        return Finding(name, False, str(error), error.detail)


def _hook(config: KernelConfig) -> str:
    """Which hook would be used. Asks for programs on the loopback interface, which changes nothing."""
    if config.hook != "clsact" and not tcx.is_known():
        if config.hook == "tcx":
            raise EppingError("the kernel does not know TCX hooks: use Linux 6.6 or newer, or --hook auto")
        return "clsact filters, for the kernel has no TCX links; CAP_NET_ADMIN is kept to take them off in the end"
    if config.hook == "clsact":
        return "clsact filters, as asked for; CAP_NET_ADMIN is kept to take them off in the end"
    return "TCX links attach, and detach by themselves when the agent ends"


def _run_time() -> str:
    if kept := privileges.needed_at_run_time():
        return privileges.in_words(kept)
    return "no capability is held once the program is loaded, and interfaces that come later are attached to"


def _memory(collector: Collector) -> str:
    sizes = collector.kernel_bytes
    per_cpu = sum(sizes[name] for name in _PER_CPU) / possible_cpus()
    total = sum(sizes.values())
    agent = _AGENT_BYTES + _AGENT_BYTES_A_SUBNET * collector.config.max_subnets
    return (
        f"{total / _MIB:.1f} MiB in the kernel for {collector.config.max_subnets} subnets at scale "
        f"{collector.config.scale} and {collector.config.max_flows} flows; {per_cpu / _MIB:.1f} MiB of it for each of "
        f"{possible_cpus()} CPUs; at most {agent / _MIB:.0f} MiB in the agent, with so many subnets active"
    )


def _verifier(collector: Collector) -> str:
    time = f"{collector.program.verifier_s:.2f} s"
    counts = collector.verified_instructions
    if counts is None:
        return f"verified in {time}; this kernel does not say how many instructions (Linux 5.16 and later do)"
    each = ", ".join(f"{name.removeprefix('epping_')} {count:,}" for name, count in counts.items())
    return f"{each} instructions verified, in {time}"


def _alone(config: KernelConfig) -> Iterator[Finding]:
    """The program with each of its methods alone, loaded for real as well."""
    for method in config.methods:
        try:
            with Collector(replace(config, methods=(method,))) as collector:
                yield Finding(method, True, _verifier(collector))
        except EppingError as error:
            yield Finding(method, False, str(error), error.detail)


_ORDER = {
    True: "before otel-epping: packets that it drops, redirects or passes to the end are not seen",
    False: "after otel-epping: it hides no packet",
}


def _neighbours(name: str, config: KernelConfig) -> Iterator[Finding]:
    """Who is on the hooks of an interface, in which order, and what they hide."""
    ifindex, hook = interfaces.find(name).ifindex, choose_hook(config.hook)
    if hook == "clsact":
        clsact.refuse_ingress_qdisc(ifindex)
    if warning := neighbours.warning_of(rtnetlink.device(ifindex)):
        yield Finding(name, False, warning)
    places: Counter[str] = Counter()
    for each in neighbours.on_hooks(ifindex, hook):
        places[each.hook] += 1
        order = "otel-epping" if each.is_ours else _ORDER[each.is_first]
        yield Finding(name, True, f"{each.hook} {places[each.hook]}: {each.text}: {order}")
    if not places:
        yield Finding(name, True, "no program and no filter of others is on its hooks")


def on_interfaces(texts: Sequence[str], config: KernelConfig) -> Iterator[Finding]:
    """Lines about interfaces by name, pattern, or `auto`."""
    try:
        for name in present(texts):
            try:
                yield from _neighbours(name, config)
            except OSError as error:
                text = f"its hooks cannot be looked at ({error.strerror}): that takes CAP_NET_ADMIN"
                yield Finding(name, False, text)
            except EppingError as error:
                yield Finding(name, False, str(error))
    except EppingError as error:
        yield Finding("interface", False, str(error))


def findings(config: KernelConfig, verbose: bool = False) -> Iterator[Finding]:
    """All lines of the report, in the order in which things are needed; with `verbose`, what the verifier says."""
    yield _find("kernel", lambda: f"{requirements.kernel()}: {requirements.tried_kernel()}")
    yield _find("BTF", requirements.btf)
    for name, look in _SURROUNDINGS.items():
        if not (finding := _find(name, look)).ok:
            yield finding
            return
    capabilities = [_find(name, partial(requirements.capability, name)) for name in privileges.NEEDED]
    yield from capabilities
    yield _find("locked memory", requirements.locked_memory)
    library = _find("libbpf", libbpf.version)
    yield library
    if not library.ok:
        return
    if all(each.ok for each in capabilities) and not (system_call := _find("bpf()", requirements.bpf)).ok:
        yield system_call
        return
    yield _find("hook", partial(_hook, config))
    try:
        with Collector(config) as collector:
            program = collector.program
            tried = requirements.tried_bcc(program.bcc_version)
            yield Finding("compiler", True, f"{program.compiler}, of {program.interpreter}: {tried}")
            yield Finding("program", True, "compiled, and accepted by the kernel's verifier")
            yield Finding("run time", True, _run_time())
            yield Finding("memory", True, _memory(collector))
            if verbose:
                yield Finding("verifier", True, _verifier(collector))
    except EppingError as error:
        yield Finding("program", False, str(error), error.detail)
        return
    if verbose:
        yield from _alone(config)
