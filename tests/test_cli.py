# SPDX-License-Identifier: Apache-2.0
"""The first run: whatever a machine lacks and whatever a user types, one line says the cause and the cure.

Every case is the real command in a process of its own, in a network namespace of our own. What a machine may lack is
taken away for real: capabilities by setpriv(1), the kernel's release by setarch(8), packages by a mount over their
files that only the process under test sees.
"""

import fcntl
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from otel_epping import telemetry
from otel_epping.kernel import interfaces
from otel_epping.kernel.config import possible_cpus
from otel_epping.kernel.errors import EppingError
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.sink import Sink
from otel_epping.version import __version__

REPOSITORY = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "otel_epping"]
BCC = "/usr/lib/python3/dist-packages/bcc"
MIB = 2**20

NOBODY_UID = "65534"
NOBODY = ["setpriv", "--reuid", NOBODY_UID, "--clear-groups", "--bounding-set=-all"]
NEEDED = "-all,+bpf,+net_admin,+perfmon"
CAPABLE_NOBODY = ["setpriv", "--reuid", NOBODY_UID, "--clear-groups"]
CAPABLE_NOBODY += [f"--{kind}={NEEDED}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]
# Checkout and virtual environment may be where nobody else can look, in /root for one: nobody sees them elsewhere.
FOR_NOBODY = 'mount --bind "$0" /mnt && mount --bind "$1" /srv && shift && exec "$@"'
OLD_KERNEL = ["setarch", "--uname-2.6"]

NO_CAPABILITIES = "missing CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF: run as root, or give the process these capabilities"
NO_HEADERS = "apt-get install linux-libc-dev"
NO_BCC = "BCC is not installed: apt-get install python3-bpfcc"
TOO_OLD = "otel-epping needs Linux 6.6 or newer"


@pytest.fixture(scope="module")
def ns() -> Iterator[Namespace]:
    """A host with loopback, `up0` and its peer `up1` up, and `down0` down."""
    with Namespace("cli") as namespace:
        namespace.ip(
            "link add up0 type veth peer name up1",
            "address add 10.9.0.1/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "link add down0 type veth peer name down1",
        )
        yield namespace


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Ours, without settings of the user who runs the tests."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | settings


def epping(
    ns: Namespace, *arguments: str, command: list[str] = COMMAND, settings: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """One run of otel-epping to its end; `command` may be one that takes something away from it first."""
    process = ns.popen(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(settings or {}),
    )
    stdout, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stdout + stderr, stderr
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def as_nobody(setpriv: list[str]) -> list[str]:
    """Otel-epping run by nobody, with the privileges that `setpriv` leaves."""
    binds = ["unshare", "--mount", "sh", "-c", FOR_NOBODY, str(REPOSITORY), sys.prefix]
    return [*binds, *setpriv, "env", "PYTHONPATH=/mnt", "/srv/bin/python", "-m", "otel_epping"]


def without(*paths: str) -> list[str]:
    """A command that runs another with nothing in these directories, and with nothing but nothing in these files."""
    hide = 'if test -d "$path"; then mount -t tmpfs none "$path"; else mount --bind /dev/null "$path"; fi || exit'
    script = f'for path in {" ".join(paths)}; do {hide}; done; exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh"]


def said(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed run ends in. Click shows the usage before it when the arguments are wrong."""
    *before, last = result.stderr.splitlines()
    if result.returncode == 2:
        assert [line.split(" ")[0] for line in before] in ([], ["Usage:", "Try", ""])
        assert last.startswith("Error: ")
    else:
        assert result.returncode == 1
        assert before == []
        assert last.startswith("otel-epping: ")
    assert not result.stdout
    return last.partition(": ")[2]


@dataclass
class Agent:
    """An `otel-epping run` that goes on in the background."""

    process: subprocess.Popen[str]
    log: Path

    def wait_for(self, text: str, times: int = 1) -> None:
        deadline = time.monotonic() + 10
        while self.log.read_text().count(text) < times:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.02)

    def stop(self, timeout_s: float = 10) -> int:
        """Ends it; the exit code."""
        self.process.terminate()
        code = self.process.wait(timeout_s)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()
        return code


@pytest.fixture
def start(ns: Namespace, tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Starts an agent and waits until it watches."""
    agents: list[Agent] = []

    def start(
        *arguments: str,
        command: list[str] = COMMAND,
        output: int = subprocess.DEVNULL,
        **settings: str,
    ) -> Agent:
        log = tmp_path / f"agent{len(agents)}.log"
        with log.open("w") as stderr:
            process = ns.popen(
                [*command, "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=stderr,
                env=environment(settings or {}),
            )
        agents.append(Agent(process, log))
        agents[-1].wait_for("watching")
        return agents[-1]

    yield start
    for agent in agents:
        agent.process.kill()
        agent.process.wait()


def free_port(ns: Namespace) -> int:
    with ns.entered(), socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def converse(ns: Namespace, turns: int = 20) -> None:
    """Requests and answers over a TCP connection of the namespace's loopback interface."""
    with (
        ns.entered(),
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
        listener.accept()[0] as far,
    ):
        for _ in range(turns):
            near.sendall(b"request")
            far.recv(100)
            far.sendall(b"answer")
            near.recv(100)
            time.sleep(0.01)


def kernel_maps(size: int) -> list[dict[str, Any]]:
    """Maps in the kernel with room for so many elements: how we recognise what an agent of ours has loaded."""
    listed = subprocess.run(["bpftool", "-j", "map", "show"], capture_output=True, text=True, check=True).stdout
    return [entry for entry in json.loads(listed) if entry["max_entries"] == size]


def assert_freed(size: int) -> None:
    deadline = time.monotonic() + 5
    while left := kernel_maps(size):  # the kernel frees maps when all CPUs have let go of them
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


# ---- what a user types


def test_help(ns: Namespace) -> None:
    result = epping(ns, "--help")
    assert result.returncode == 0
    for command in ("run", "check", "demo"):
        assert f"\n  {command} " in result.stdout
    options = epping(ns, "run", "--help").stdout
    for option in ("interface", "interval", "prefix-v4", "prefix-v6", "sample-interval", "max-age", "scale"):
        assert f"--{option} " in options


def test_version(ns: Namespace) -> None:
    assert epping(ns, "--version").stdout == f"otel-epping, version {__version__}\n"


def test_no_arguments_show_the_help(ns: Namespace) -> None:
    result = epping(ns)
    assert result.returncode == 2
    assert "Commands:" in result.stderr


TIME = "is not a time such as 100ms, 2.5s or 1m"


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["runn"], "No such command 'runn'"),
        (["--verbose"], "No such option '--verbose'"),
        (["run"], "Missing option '-i'"),
        (["run", "-i"], "requires an argument"),
        (["run", "-i", "lo", "eth0"], "unexpected extra argument (eth0)"),
        (["run", "-i", "lo", "--speed", "1"], "No such option '--speed'"),
        (["run", "-i", "lo", "--interval", "5 parsecs"], TIME),
        (["run", "-i", "lo", "--interval", "-1s"], TIME),
        (["run", "-i", "lo", "--interval", ""], TIME),
        (["run", "-i", "lo", "--interval", "0"], "from 0.001s to 86400s"),
        (["run", "-i", "lo", "--interval", "999999999m"], "from 0.001s to 86400s"),
        (["check", "--sample-interval", "5 parsecs"], TIME),
        (["check", "--sample-interval", "65s"], "from 0s to 64s"),
        (["check", "--max-age", "0"], "from 0.001s to 600s"),
        (["check", "--max-age", "601s"], "from 0.001s to 600s"),
        (["check", "--scale", "7"], "0<=x<=6"),
        (["check", "--scale", "-1"], "0<=x<=6"),
        (["check", "--prefix-v4", "33"], "0<=x<=32"),
        (["check", "--prefix-v6", "129"], "0<=x<=128"),
        (["check", "--prefix-v6", "/48"], "not a valid integer"),
        (["check", "--max-subnets", "0"], "1<=x<=4000000"),
        (["check", "--max-subnets", "4000001"], "1<=x<=4000000"),
        (["check", "--max-flows", "63"], "64<=x<=16000000"),
        (["demo", "--fast"], "No such option '--fast'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_arguments_say_what_is_allowed(ns: Namespace, arguments: list[str], cure: str) -> None:
    result = epping(ns, *arguments)
    line = said(result)
    assert result.returncode == 2
    assert cure in line
    for option in arguments[-2:-1]:
        if option.startswith("--"):
            assert option in line


# Option, a value that its variable must not have, one that it may have.
OPTIONS = [
    ("interval", "5 parsecs", "1m"),
    ("sample-interval", "soon", "0"),
    ("max-age", "0", "1s"),
    ("scale", "7", "6"),
    ("prefix-v4", "33", "32"),
    ("prefix-v6", "129", "0"),
    ("max-subnets", "0", "1"),
    ("max-flows", "0", "64"),
]


def variable(option: str) -> str:
    return "OTEL_EPPING_" + option.upper().replace("-", "_")


@pytest.mark.parametrize(("option", "bad"), [row[:2] for row in OPTIONS])
def test_variables_set_options(ns: Namespace, option: str, bad: str) -> None:
    settings = {"OTEL_EPPING_INTERFACE": "lo", variable(option): bad}
    assert f"'--{option}'" in said(epping(ns, "run", settings=settings))


def test_variable_with_several_interfaces(ns: Namespace) -> None:
    assert "no interface 'nope'" in said(epping(ns, "run", settings={"OTEL_EPPING_INTERFACE": "lo, nope"}))


def test_flags_win_over_variables(ns: Namespace) -> None:
    settings = {variable(option): bad for option, bad, _ in OPTIONS} | {"OTEL_EPPING_INTERFACE": "lo"}
    flags = [f"--{option}={good}" for option, _, good in OPTIONS]
    # With these flags all options are good, and the next thing to complain of is the interface.
    assert "no interface 'nope'" in said(epping(ns, "run", "--interface", "nope", *flags, settings=settings))


# ---- interfaces


def test_unknown_interface_names_those_there_are(ns: Namespace) -> None:
    line = "there is no interface 'eth7': choose one of down0, down1, lo, up0, up1"
    assert said(epping(ns, "run", "-i", "lo", "-i", "eth7")) == line


@pytest.mark.parametrize("name", ["", "x" * 40, "\udcff", "a\nb"], ids=ascii)
def test_names_that_no_interface_can_have(ns: Namespace, name: str) -> None:
    assert "there is no interface" in said(epping(ns, "run", "-i", name))


def test_interface_that_is_down(ns: Namespace) -> None:
    assert said(epping(ns, "run", "-i", "down0")) == "interface down0 is down: ip link set down0 up"


@pytest.fixture
def tun(ns: Namespace) -> Iterator[Callable[[int], None]]:
    """Makes the interface tun0, up, with the hardware type that it is told (linux/if_arp.h)."""
    fds: list[int] = []

    def tun(hardware: int) -> None:
        with ns.entered():
            fds.append(os.open("/dev/net/tun", os.O_RDWR))
            fcntl.ioctl(fds[-1], 0x400454CA, struct.pack("16sH22x", b"tun0", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
        fcntl.ioctl(fds[-1], 0x400454CD, hardware)  # TUNSETLINK
        ns.ip("link set tun0 up")

    yield tun
    for fd in fds:
        os.close(fd)


def test_ethernet_and_loopback_have_a_link_header(ns: Namespace) -> None:
    with ns.entered():
        assert [interfaces.find(name).link_header for name in ("lo", "up0")] == [14, 14]


@pytest.mark.parametrize("hardware", [512, 519, 768, 769, 776, 778, 823, 65534])
def test_plain_ip_has_no_link_header(ns: Namespace, tun: Callable[[int], None], hardware: int) -> None:
    tun(hardware)
    with ns.entered():
        assert interfaces.find("tun0").link_header == 0


@pytest.mark.parametrize("hardware", [280, 801, 804], ids=["CAN", "Wi-Fi monitor", "IEEE 802.15.4"])
def test_foreign_link_types_are_refused(ns: Namespace, tun: Callable[[int], None], hardware: int) -> None:
    tun(hardware)
    with ns.entered(), pytest.raises(EppingError, match=f"ARPHRD {hardware}.*neither Ethernet nor plain IP"):
        interfaces.find("tun0")


def test_interface_that_goes_away(ns: Namespace, start: Callable[..., Agent]) -> None:
    ns.ip("link add gone0 type veth peer name gone1", "address add 10.8.0.1/24 dev gone0")
    ns.ip("link set gone0 up", "link set gone1 up")
    with Sink(namespace=ns) as sink:
        agent = start("-i", "gone0", "--interval", "200ms", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        with ns.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.bind(("10.8.0.1", 0))
            for _ in range(7):
                sender.sendto(b"to nobody", ("10.8.0.255", 9))
        sink.wait_for(lambda received: received.requests, 5)
        ns.ip("link delete gone0")
        sink.clear()
        sink.wait_for(lambda received: len(received.requests) >= 2, 5)
        sink.clear()
        assert agent.stop() == 0
        points = sink.points(telemetry.SUBNET_COUNTERS[0].name)
        assert sum(point.point.as_int for point in points if point.attributes[telemetry.TRAFFIC_CLASS] == "udp") >= 7


def test_two_agents_count_the_same_and_heed_their_options(ns: Namespace, start: Callable[..., Agent]) -> None:
    settings = {"OTEL_EPPING_INTERFACE": "lo,up0", "OTEL_EPPING_SCALE": "2", "OTEL_EPPING_PREFIX_V4": "8"}
    settings |= {"OTEL_EPPING_SAMPLE_INTERVAL": "0", "OTEL_EPPING_INTERVAL": "1m"}
    twice = ["-i", "lo", "-i", "lo", "--prefix-v4", "24"]
    with Sink(namespace=ns) as first, Sink(namespace=ns) as second:
        agents = [
            start(OTEL_EXPORTER_OTLP_ENDPOINT=first.grpc_endpoint, **settings),
            start(*twice, "--scale", "3", OTEL_EXPORTER_OTLP_ENDPOINT=second.grpc_endpoint, **settings),
        ]
        converse(ns)
        assert [agent.stop() for agent in agents] == [0, 0]
        assert "watching lo, up0:" in agents[0].log.read_text()
        assert "watching lo:" in agents[1].log.read_text()  # named twice, it is one
        for sink, subnet, scale in ((first, "127.0.0.0/8", 2), (second, "127.0.0.0/24", 3)):
            rtts = sink.points(telemetry.RTT.name)
            assert {point.attributes[telemetry.SUBNET] for point in rtts} == {subnet}
            assert {point.point.scale for point in rtts} == {scale}
            assert sum(point.point.count for point in rtts) >= 20


# ---- what a machine lacks


@pytest.mark.parametrize("command", [["run", "-i", "lo"], ["demo"]], ids=["run", "demo"])
def test_without_privileges(ns: Namespace, command: list[str]) -> None:
    assert said(epping(ns, *command, command=as_nobody(NOBODY))) == NO_CAPABILITIES


def test_three_capabilities_are_enough(ns: Namespace, start: Callable[..., Agent]) -> None:
    nobody = as_nobody(CAPABLE_NOBODY)
    with Sink(namespace=ns) as sink:
        agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint, command=nobody)
        status = Path(f"/proc/{agent.process.pid}/status").read_text()
        assert f"Uid:\t{NOBODY_UID}" in status
        assert int(status.split("CapEff:")[1].split()[0], 16) == 1 << 12 | 1 << 38 | 1 << 39
        converse(ns)
        assert agent.stop() == 0
        assert sum(point.point.count for point in sink.points(telemetry.RTT.name)) > 0
    assert epping(ns, "check", command=nobody).returncode == 0


def missing(result: subprocess.CompletedProcess[str]) -> str:
    """The lines of a `check` that found something missing."""
    assert result.returncode == 1
    return "\n".join(line for line in result.stdout.splitlines() if line.startswith("MISSING "))


def test_check_without_privileges(ns: Namespace) -> None:
    lines = missing(epping(ns, "check", command=as_nobody(NOBODY)))
    assert NO_CAPABILITIES in lines
    assert "linux-libc-dev" not in lines  # which is there


@pytest.mark.parametrize("command", [["run", "-i", "lo"], ["demo"]], ids=["run", "demo"])
def test_old_kernel(ns: Namespace, command: list[str]) -> None:
    assert TOO_OLD in said(epping(ns, *command, command=[*OLD_KERNEL, *COMMAND]))


def test_check_on_an_old_kernel(ns: Namespace) -> None:
    assert TOO_OLD in missing(epping(ns, "check", command=[*OLD_KERNEL, *COMMAND]))


def library() -> str:
    (path,) = {str(path.resolve()) for path in Path("/usr/lib").glob("*/libbpf.so.1")}
    return path


HEADERS = "/usr/include/linux"
LACKS: list[tuple[str, Callable[[], list[str]], str, str]] = [
    ("BCC", lambda: [BCC], NO_BCC, NO_BCC),
    ("headers", lambda: [HEADERS], NO_HEADERS, NO_HEADERS),
    ("libbpf", lambda: [library()], "apt-get install libbpf1", "apt-get install python3-bpfcc"),
]


@pytest.mark.parametrize(("paths", "of_check", "of_run"), [lack[1:] for lack in LACKS], ids=[lack[0] for lack in LACKS])
def test_packages_that_are_missing(ns: Namespace, paths: Callable[[], list[str]], of_check: str, of_run: str) -> None:
    command = [*without(*paths()), *COMMAND]
    assert of_check in missing(epping(ns, "check", command=command))
    result = epping(ns, "run", "-i", "lo", command=command)
    assert result.returncode == 1
    # What a compiler or a linker says may come before the last line.
    assert result.stderr.splitlines()[-1].startswith("otel-epping: ")
    assert of_run in result.stderr.splitlines()[-1]


@pytest.fixture(scope="module")
def lattice_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a virtual environment into which somebody has installed PyPI's bcc."""
    folder = tmp_path_factory.mktemp("lattice")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "ours.pth").write_text(f"{ours}\n{REPOSITORY}\n")
    (packages / "bcc").mkdir()
    (packages / "bcc" / "__init__.py").write_text('"""Body-centred cubic crystals."""\n\nATOMS = 2\n')
    return str(folder / "bin" / "python")


def test_wrong_bcc_does_no_harm_beside_the_right_one(ns: Namespace, lattice_python: str) -> None:
    result = epping(ns, "check", command=[lattice_python, "-m", "otel_epping"])
    assert result.returncode == 0, result
    assert "of /usr/bin/python3" in result.stdout


def test_wrong_bcc_is_recognised(ns: Namespace, lattice_python: str) -> None:
    result = epping(ns, "run", "-i", "lo", command=[*without(BCC), lattice_python, "-m", "otel_epping"])
    line = result.stderr.splitlines()[-1]
    assert "site-packages/bcc" in line
    assert "PyPI's crystal-lattice package" in line
    assert "pip uninstall bcc, then apt-get install python3-bpfcc" in line


# ---- check


def test_check_says_what_the_program_takes(ns: Namespace, start: Callable[..., Agent]) -> None:
    result = epping(ns, "check")
    assert result.returncode == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["ok", name] for name in ("kernel", "BTF", "privileges", "TCX", "BCC", "program", "memory")
    ]
    figures = re.search(r"([\d.]+) MiB in the kernel for 16384 .* 65536 flows; ([\d.]+) MiB of it for each", lines[-1])
    assert figures
    total, per_cpu = float(figures[1]), float(figures[2])
    assert total - per_cpu * possible_cpus() <= 64
    assert per_cpu <= 4

    agent = start("-i", "lo", OTEL_METRICS_EXPORTER="console")
    infos = Path(f"/proc/{agent.process.pid}/fdinfo").glob("*")
    ids = {found[1] for info in infos if (found := re.search(r"^map_id:\s*(\d+)$", info.read_text(), re.M))}
    assert len(ids) >= 7
    shown = [subprocess.check_output(["bpftool", "-j", "map", "show", "id", each], text=True) for each in ids]
    assert total == pytest.approx(sum(json.loads(each)["bytes_memlock"] for each in shown) / MIB, rel=0.01)
    assert agent.stop() == 0


def test_nothing_stays_in_the_kernel(ns: Namespace, start: Callable[..., Agent]) -> None:
    size = 10_007
    assert epping(ns, "check", "--max-subnets", str(size)).returncode == 0
    assert_freed(size)
    agent = start("-i", "lo", "--max-subnets", str(size), OTEL_METRICS_EXPORTER="console")
    assert kernel_maps(size)
    agent.process.kill()
    agent.process.wait()
    assert_freed(size)


# ---- exporting


def test_console_prints_json(ns: Namespace, start: Callable[..., Agent]) -> None:
    agent = start("-i", "lo", "--interval", "300ms", output=subprocess.PIPE, OTEL_METRICS_EXPORTER="console")
    agent.process.send_signal(signal.SIGINT)
    stdout, _ = agent.process.communicate(timeout=10)
    assert agent.process.returncode == 0
    decoder, documents = json.JSONDecoder(), []
    while stdout.strip():
        document, end = decoder.raw_decode(stdout := stdout.lstrip())
        documents.append(document)
        stdout = stdout[end:]
    (resource,) = documents[-1]["resource_metrics"]
    assert resource["resource"]["attributes"]["service.name"] == "otel-epping"
    assert "epping.collector.subnet.limit" in json.dumps(resource["scope_metrics"])


# Over HTTP the exporter tells the cause when it tries again, for which it needs a second.
@pytest.mark.parametrize(("protocol", "timeout_s"), [("grpc", "0.5"), ("http/protobuf", "2")])
def test_dead_endpoint_is_told_once_and_tried_on(
    ns: Namespace, start: Callable[..., Agent], protocol: str, timeout_s: str
) -> None:
    port = free_port(ns)
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    agent = start("-i", "lo", "--interval", "200ms", OTEL_EXPORTER_OTLP_TIMEOUT=timeout_s, **settings)
    agent.wait_for("export failed, counts are kept")
    time.sleep(2)
    assert agent.log.read_text().count("export failed") == 1
    grpc = protocol == "grpc"
    with Sink(grpc_port=port if grpc else 0, http_port=0 if grpc else port, namespace=ns) as sink:
        sink.wait_for(lambda received: received.requests, 10)
        agent.wait_for("exports get through again")
        sink.fail_with(503)
        agent.wait_for("export failed", times=2)
        assert agent.stop(5) == 1
    log = agent.log.read_text()
    assert log.count("export failed") == 2
    assert str(port) in log  # the cause, and not only that there is one
    assert log.splitlines()[-1].startswith("otel-epping: the last interval was not delivered")


@pytest.mark.parametrize("delay_s", [0.3, 0.6])
def test_ctrl_c_while_it_compiles(ns: Namespace, delay_s: float) -> None:
    """A terminal signals all processes in the foreground: the loader too."""
    command = [*COMMAND, "run", "-i", "lo"]
    settings = environment({"OTEL_METRICS_EXPORTER": "console"})
    process = ns.popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=settings)
    time.sleep(delay_s)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert "Traceback" not in stderr
    assert "run it by hand" not in stderr


@pytest.fixture
def black_hole(ns: Namespace) -> Iterator[str]:
    """An endpoint that takes connections and never answers."""
    with ns.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_second_signal_ends_at_once(start: Callable[..., Agent], black_hole: str) -> None:
    agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=black_hole)
    agent.process.send_signal(signal.SIGTERM)
    agent.wait_for("stopping")
    time.sleep(1.2)
    assert agent.process.poll() is None
    agent.process.send_signal(signal.SIGINT)
    assert agent.process.wait(1) == 128 + signal.SIGINT
    assert agent.log.read_text().splitlines()[-1].startswith("otel-epping: stopped at once")


def test_a_signal_doubled_on_its_way_is_one(ns: Namespace, start: Callable[..., Agent]) -> None:
    """As timeout(1) does: it signals its child, and then the process group that the child is in."""
    with Sink(namespace=ns) as sink:
        agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT=sink.grpc_endpoint)
        agent.process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(10) == 0, agent.log.read_text()
        assert sink.requests


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"OTEL_METRICS_EXPORTER": "foo"}, "OTEL_METRICS_EXPORTER: there is no exporter 'foo'"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'smoke', which is not supported: use grpc or http/protobuf",
        ),
        ({"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_COMPRESSION"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1"}, "Invalid IPv6 URL"),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "-5"}, "interval value -5.0 is invalid"),
        ({"OTEL_METRICS_EXEMPLAR_FILTER": "x"}, "exemplar filter"),
    ],
    ids=lambda value: (
        "-".join(f"{name}={setting}" for name, setting in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_settings_that_cannot_work(ns: Namespace, settings: dict[str, str], words: str) -> None:
    assert words in said(epping(ns, "run", "-i", "lo", settings=settings))


def test_settings_that_are_passed_over_with_a_warning(ns: Namespace, start: Callable[..., Agent]) -> None:
    warnings = {
        "OTEL_METRIC_EXPORT_INTERVAL": "invalid value for export interval, using default",
        "OTEL_METRIC_EXPORT_TIMEOUT": "invalid value for export timeout, using default",
        "OTEL_RESOURCE_ATTRIBUTES": "Invalid key value resource attribute pair garbage",
        "OTEL_EXPORTER_OTLP_HEADERS": "Header format invalid",
    }
    with Sink(namespace=ns) as sink:
        settings = dict.fromkeys(warnings, "garbage") | {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        agent = start("-i", "lo", **settings)
        assert agent.stop() == 0
        assert sink.requests
    log = agent.log.read_text()
    assert [name for name, warning in warnings.items() if warning not in log] == []


def test_endpoint_that_is_none(start: Callable[..., Agent]) -> None:
    agent = start("-i", "lo", OTEL_EXPORTER_OTLP_ENDPOINT="garbage", OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf")
    assert agent.stop() == 1
    log = agent.log.read_text()
    assert "garbage" in log
    assert log.splitlines()[-1].endswith("is OTEL_EXPORTER_OTLP_ENDPOINT right?")


# ---- standard streams


@pytest.mark.parametrize(
    "line",
    ["check | head -n 1", "check | true", "check <&-", "--help | true", "run -i nope 2>&-", "check >/dev/full"],
)
def test_streams_that_are_closed(ns: Namespace, line: str) -> None:
    arguments, redirection = re.fullmatch(r"([^|<>2]+?)( [|<>2].*)", line).groups()  # type: ignore[union-attr]
    script = f'"$@" {arguments}{redirection}'
    result = epping(ns, command=["sh", "-c", script, "sh", *COMMAND])
    assert "Exception" not in result.stderr
    assert len(result.stderr.splitlines()) <= 1
