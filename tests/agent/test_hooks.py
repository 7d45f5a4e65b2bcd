# SPDX-License-Identifier: Apache-2.0
"""Runs the agent next to other programs on the same hooks.

If another program runs first, the agent moves its own program to the front of the hook. If another process detaches the
agent's program, the agent attaches its program again. The agent reports the move and the detachment in its probes, its
log and its metrics, and to systemd. `check` lists the programs on the hooks.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table, semconv
from tests.support import other_programs
from tests.support.command import Agent, epping
from tests.support.hosts import Hosts, latest_total, udp_socket
from tests.support.lab_agent import eventually
from tests.support.other_programs import PUT
from tests.support.patience import PATIENCE_S, stays
from tests.support.probes import PROBED, ask

OK = other_programs.VERDICTS["OK"]
PACKETS = metric_table.INTERFACE_PACKETS.name
WITHIN_S = 5.0


def exchange(hosts: Hosts, packets: int = 20) -> None:
    """Send packets in both directions between the hosts."""
    with (
        closing(udp_socket(hosts.here, "10.77.0.1", 9)) as here,
        closing(udp_socket(hosts.there, "10.77.0.2", 9)) as there,
    ):
        for _ in range(packets):
            here.sendto(b"there", ("10.77.0.2", 9))
            there.sendto(b"back", ("10.77.0.1", 9))


def is_ready(hosts: Hosts) -> bool:
    return ask(hosts.here, "/readyz")[0] == 200


def events(sink: Sink) -> dict[str, int]:
    """Return the interface events of the latest export."""
    points = sink.points(agent_metrics.INTERFACE_EVENTS.name)
    return {str(point.attributes[semconv.INTERFACE_EVENT]): point.point.as_int for point in points}


@pytest.fixture
def sink(hosts: Hosts) -> Iterator[Sink]:
    with Sink(namespace=hosts.here) as sink:
        yield sink


@pytest.fixture
def run(hosts: Hosts, sink: Sink, start: Callable[..., Agent]) -> Callable[..., Agent]:
    """Return a function that starts an agent on the interface veth0 and enables its health probes."""

    def run(hook: str, **settings: str) -> Agent:
        arguments = ("-i", "veth0", "--hook", hook, "--interval", "200ms", *PROBED)
        settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink.grpc_endpoint
        return start(*arguments, namespace=hosts.here, **settings)

    return run


@pytest.mark.parametrize("hook", PUT)
def test_a_program_that_accepts_all_packets_runs_after_ours(
    hosts: Hosts, sink: Sink, run: Callable[..., Agent], hook: str
) -> None:
    hosts.join(0)
    with ExitStack() as other:
        other.enter_context(hosts.here.entered())
        other.enter_context(PUT[hook]("veth0", OK, "first"))
        agent = run(hook)
        exchange(hosts)
        stays(lambda: is_ready(hosts), 2.5, "all packets are counted")
        assert agent.stop() == 0
        assert latest_total(sink, PACKETS) == 40
        assert latest_total(sink, metric_table.INTERFACE_KERNEL_PACKETS.name) == 40
        assert "veth0 ingress" not in agent.log.read_text()


@pytest.mark.parametrize("hook", PUT)
def test_the_agent_moves_to_the_front(hosts: Hosts, sink: Sink, run: Callable[..., Agent], hook: str) -> None:
    hosts.join(0)
    with ExitStack() as other:
        agent = run(hook)
        other.enter_context(hosts.here.entered())
        other.enter_context(PUT[hook]("veth0", OK, "first"))
        exchange(hosts)
        eventually(lambda: not is_ready(hosts), WITHIN_S, "packets were not seen")
        agent.wait_for("moved to the front of the hook", 2)
        eventually(lambda: is_ready(hosts), PATIENCE_S, "packets are seen")
        exchange(hosts)
        assert agent.stop() == 0
        assert latest_total(sink, PACKETS) == 40
        assert latest_total(sink, metric_table.INTERFACE_KERNEL_PACKETS.name) == 80
        assert events(sink)["moved"] == 2
        if hook == "clsact":
            assert "veth0 egress: bpf neighbour:[" in agent.log.read_text()


def links_of(agent: Agent) -> list[str]:
    """Return the ids of the BPF links for which the agent has an open descriptor."""
    texts = []
    for file in Path(f"/proc/{agent.process.pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # the agent has closed this descriptor since the directory was listed
            texts.append(file.read_text())
    return [text.split("link_id:")[1].split()[0] for text in texts if "link_id:" in text]


@pytest.mark.parametrize("hook", PUT)
def test_a_removed_program_is_attached_again(
    hosts: Hosts, sink: Sink, run: Callable[..., Agent], hook: str, public: Path
) -> None:
    """Another process removes the agent's program from its hooks.

    With clsact, the program is removed from one of two interfaces. With TCX, the program is removed from both
    interfaces, and the agent has no capability.
    """
    hosts.join(0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(public / "notify"))
        (public / "notify").chmod(0o777)
        systemd.settimeout(PATIENCE_S)
        agent = run(hook, NOTIFY_SOCKET=str(public / "notify"), OTEL_EPPING_LAN="lo")
        eventually(lambda: is_ready(hosts), PATIENCE_S, "the agent is ready")
        if hook == "clsact":
            hosts.here.run("tc", "qdisc", "del", "dev", "veth0", "clsact")
        else:
            assert len(links_of(agent)) == 4
            for link in links_of(agent):
                hosts.here.run("bpftool", "link", "detach", "id", link)
        assert not is_ready(hosts)
        while "detached otel-epping's program" not in systemd.recv(4096).decode():
            pass
        agent.wait_for("veth0 ingress: another process detached otel-epping's program: attached again")
        agent.wait_for("veth0 egress: another process detached otel-epping's program: attached again")
        eventually(lambda: is_ready(hosts), PATIENCE_S, "the program is attached again")
        while "packets are seen" not in systemd.recv(4096).decode():
            pass
        exchange(hosts)
        assert agent.stop() == 0
        assert latest_total(sink, PACKETS, "veth0") == 40
        assert events(sink)["reattached"] == (2 if hook == "clsact" else 4)


# ---- check


def test_check_lists_the_programs_on_the_hooks(hosts: Hosts, run: Callable[..., Agent]) -> None:
    hosts.join(0)

    def rows(*arguments: str) -> list[str]:
        output = epping(hosts.here, "check", "-i", "veth0", "--max-subnets", "64", *arguments).stdout
        return [line.split("veth0", 1)[1].strip() for line in output.splitlines() if " veth0 " in line]

    assert rows() == ["no other program or filter is on the hooks of this interface"]
    with ExitStack() as others:
        run("tcx")
        others.enter_context(hosts.here.entered())
        others.enter_context(PUT["tcx"]("veth0", OK, "last"))
        others.enter_context(PUT["clsact"]("veth0", OK, "last"))
        xdp = others.enter_context(other_programs.loaded(other_programs.XDP_PASS, other_programs.BPF_PROG_TYPE_XDP))
        others.enter_context(other_programs.xdp("veth0", xdp))
        found = rows()
    hides = "runs before otel-epping, and hides the packets that it accepts, drops or redirects"
    expected = [("xdp 1: XDP program", hides)]
    for direction in ("ingress", "egress"):
        expected += [
            (f"tcx {direction} 1: TCX program epping_{direction}", "otel-epping"),
            (f"tcx {direction} 2: TCX program neighbour", "runs after otel-epping: no packets are hidden"),
            (f"clsact {direction} 1: filter bpf neighbour:[", "runs after otel-epping: no packets are hidden"),
        ]
    assert len(found) == len(expected), found
    for row, (begin, end) in zip(found, expected, strict=True):
        assert row.startswith(begin), found
        assert row.endswith(f": {end}"), found


def test_check_with_clsact_reports_programs_before_filters(hosts: Hosts) -> None:
    hosts.join(0)
    with ExitStack() as others:
        others.enter_context(hosts.here.entered())
        for hook in PUT:
            others.enter_context(PUT[hook]("veth0", OK, "first"))
        output = epping(hosts.here, "check", "-i", "veth0", "--hook", "clsact", "--max-subnets", "64").stdout
    rows = [line for line in output.splitlines() if " veth0 " in line]
    assert ["before otel-epping" in row for row in rows] == [True, False] * 2
    hosts.here.run("tc", "qdisc", "del", "dev", "veth0", "clsact")
    hosts.here.run("tc", "qdisc", "add", "dev", "veth0", "ingress")
    result = epping(hosts.here, "check", "-i", "veth0", "--hook", "clsact", "--max-subnets", "64")
    assert result.returncode == 1
    assert "MISSING veth0          interface veth0 has an ingress qdisc" in result.stdout


def test_check_of_an_unknown_interface(hosts: Hosts) -> None:
    result = epping(hosts.here, "check", "-i", "nope", "--max-subnets", "64")
    assert result.returncode == 1
    assert "MISSING nope           there is no interface 'nope'" in result.stdout
