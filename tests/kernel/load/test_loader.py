# SPDX-License-Identifier: Apache-2.0
"""Tests the errors for a program that cannot be compiled or loaded.

Each error names the cause, the line and the cure.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from otel_epping.cli.check import findings
from otel_epping.errors import EppingError
from otel_epping.kernel import map_array
from otel_epping.kernel.collector import EppingCollector
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import loader, requirements
from otel_epping.settings.model import Settings

pytestmark = pytest.mark.parallel


ROOT = Path(__file__).parents[3]


def load() -> EppingCollector:
    return EppingCollector(EppingConfig(max_subnets=64, max_flows=64))


def interpreter(folder: Path, bcc: str | None) -> str:
    """Return a Python interpreter whose module `bcc` has the source code `bcc`.

    If `bcc` is None, the interpreter has no module `bcc`.
    """
    venv.create(folder, symlinks=True, with_pip=False)
    if bcc is not None:
        (site,) = folder.glob("lib/python3*/site-packages")
        (site / "bcc").mkdir()
        (site / "bcc" / "__init__.py").write_text(bcc)
    return str(folder / "bin" / "python")


WRONG = "class Crystal: pass"  # this module has no class BPF, as in PyPI's package bcc


def refusal(monkeypatch: pytest.MonkeyPatch, *interpreters: str) -> EppingError:
    monkeypatch.setattr(loader, "interpreters", lambda: list(interpreters))
    with pytest.raises(EppingError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return caught.value


def test_another_package_called_bcc_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = str(refusal(monkeypatch, interpreter(tmp_path, WRONG)))
    assert str(tmp_path) in message
    assert message.index("pip uninstall bcc") < message.index("apt-get install python3-bpfcc")


def test_the_right_bcc_is_used_if_another_package_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "interpreters", lambda: [interpreter(tmp_path, WRONG), loader.SYSTEM_PYTHON])
    with load() as collector:
        assert collector.program.interpreter == loader.SYSTEM_PYTHON


def test_another_bcc_is_named_if_the_next_interpreter_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without = interpreter(tmp_path / "without", None)
    assert str(tmp_path / "wrong") in str(refusal(monkeypatch, interpreter(tmp_path / "wrong", WRONG), without))


def test_no_bcc_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "apt-get install python3-bpfcc" in str(refusal(monkeypatch, interpreter(tmp_path, None)))
    assert "apt-get install python3-bpfcc" in str(refusal(monkeypatch))


def test_a_bcc_whose_library_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library of BCC is missing, `import bcc` raises OSError, because ctypes does not find the library."""
    broken = interpreter(tmp_path, "import ctypes\nctypes.CDLL('libbcc-that-is-not-there.so.0')")
    error = refusal(monkeypatch, broken)
    assert "apt-get install" in str(error)
    assert "libbcc-that-is-not-there" in f"{error} {error.detail}"


def test_the_error_names_missing_capabilities() -> None:
    """The creation of a map fails first.

    So the error names capabilities, and does not ask the user to install a package.
    """
    attempt = "from otel_epping.kernel.collector import EppingCollector; EppingCollector()"
    unprivileged = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--ambient-caps=-all"]
    result = subprocess.run(
        [*unprivileged, sys.executable, "-c", attempt], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode
    last = result.stderr.strip().splitlines()[-1]
    assert "EppingError" in last
    assert re.search("CAP_BPF|root|privilege|permission|permitted", last, re.IGNORECASE), last
    assert "linux-libc-dev" not in last


def test_too_many_cpus_are_an_error_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "possible_cpus", lambda: requirements.MAX_CPUS + 1)
    with pytest.raises(EppingError, match=r"1025 possible CPUs are too many: .* nr_cpus=1024$"):
        load()


# ---- compiler and verifier


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of bpf/, from which the loader compiles the program."""
    folder = shutil.copytree(loader.source_folder(), tmp_path / "bpf")
    monkeypatch.setattr(loader, "source_folder", lambda: folder)
    load().close()
    return folder


def test_a_compile_error_has_the_log_of_the_compiler(source: Path) -> None:
    header = source / "tcp_timestamp.h"
    text = header.read_text()
    header.write_text(text + "static int broken(void) { return no_such_name; }\n")
    with pytest.raises(EppingError, match=r"BCC .* cannot compile .*: please report") as caught:
        load()
    assert "\n" not in str(caught.value)
    line = len(text.splitlines()) + 1
    assert f"tcp_timestamp.h:{line}:" in caught.value.detail
    assert "no_such_name" in caught.value.detail


def test_a_rejection_by_the_verifier_has_its_log(source: Path) -> None:
    program = source / "epping.bpf.c"
    text = program.read_text()
    assert text.count("return TC_ACT_UNSPEC;") == 1
    program.write_text(text.replace("return TC_ACT_UNSPEC;", "return *(int *)(long)skb->data;"))
    with pytest.raises(EppingError, match="verifier rejects the program") as caught:
        load()
    assert "\n" not in str(caught.value)
    assert "invalid access to packet" in caught.value.detail


# Faults that the verifier finds. Name of the fault -> (file, text to replace, its replacement)
FAULTS = {
    "in the main file": ("epping.bpf.c", "return TC_ACT_UNSPEC;", "return *(int *)(long)skb->data;"),
    "an index without a bound": (
        "tcp_timestamp.h",
        "sender->sample_started_ns = changed_ns;",
        "((u64 *)sender)[packet_time(ctx->skb)] = changed_ns;",
    ),
    "a loop without an end": (
        "dns.h",
        "cold();",
        "for (u64 i = 0; i < ctx->packet->udp_head; i++) ctx->packet->udp_head += i;",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rejection_names_the_line_the_compiler_and_the_kernel(source: Path, fault: str) -> None:
    name, old, new = FAULTS[fault]
    lines = (source / name).read_text().splitlines()
    (place,) = (number for number, line in enumerate(lines, 1) if old in line)
    (source / name).write_text("\n".join(lines).replace(old, new) + "\n")
    with pytest.raises(EppingError, match="verifier rejects the program") as caught:
        load()
    message = str(caught.value)
    assert f" at {name}:{place} (" in message
    assert re.search(r"please report .* \(BCC [\d.]+ with LLVM [\d.]+ on Linux \S+", message)
    assert platform.release() in message
    assert len(caught.value.detail.splitlines()) < 200


# A module `bcc` that ends the process with a signal. A fault in the compiler can also end the process with a signal.
CRASHING = """
import os, signal
__version__ = "9.9.9"
class BPF:
    SCHED_CLS = 3
    def __init__(self, **_):
        os.kill(os.getpid(), signal.{signal})
"""


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGILL", "SIGBUS"])
def test_a_crash_of_the_compiler_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    error = refusal(monkeypatch, interpreter(tmp_path, CRASHING.format(signal=name)))
    assert str(error).startswith(f"the compiler crashed (BCC 9.9.9, {name}): please report")
    assert "memory" not in str(error)


def test_the_error_for_a_killed_loader_mentions_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(monkeypatch, interpreter(tmp_path, CRASHING.format(signal="SIGKILL")))
    assert "killed by signal 9" in str(error)
    assert "memory" in str(error)


@pytest.mark.parametrize("old", [False, True], ids=["no libbpf", "libbpf.so.0 only"])
def test_a_missing_or_old_libbpf_is_one_line(tmp_path: Path, old: bool) -> None:
    """A mount namespace hides libbpf. The error does not mention BCC."""
    library = Path("/proc/self/maps").read_text()
    path = re.search(r"/\S*/libbpf\.so\.1\S*", library)
    assert path, "this process has loaded libbpf.so.1"
    if old:
        shutil.copy(path[0], tmp_path / "libbpf.so.0")
    hide = f"mount --bind /dev/null {path[0]} && exec {sys.executable} -m otel_epping check"
    checked = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        cwd=ROOT,
        check=False,
    )
    missing = [line for line in checked.stdout.splitlines() if not line.startswith("ok")]
    assert checked.returncode == 1
    assert len(missing) == 1
    assert missing[0].startswith("MISSING libbpf")
    assert ("is too old" if old else "apt-get install libbpf1") in missing[0]
    assert "BCC" not in checked.stdout


def test_a_kernel_without_the_number_of_verified_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kernels do not report the number of verified instructions.

    On Linux 5.15, for example, /proc/self/fdinfo has no line for the number of verified instructions.
    """
    info = map_array.map_info

    def without_number(fd: int) -> dict[str, int]:
        return {name: value for name, value in info(fd).items() if name != "verified_insns"}

    monkeypatch.setattr(map_array, "map_info", without_number)
    with load() as collector:
        assert collector.verified_instructions is None
    texts = {finding.name: finding.text for finding in findings(Settings(), verbose=True)}
    assert "does not report the number of instructions" in texts["verifier"]


# machine -> (BCC's name of another architecture, the directory of Debian's headers for the other architecture)
ARCHITECTURES = {"x86_64": ("arm64", "/usr/aarch64-linux-gnu"), "aarch64": ("x86_64", "/usr/x86_64-linux-gnu")}


def compiled_for(architecture: str, includes: list[str]) -> list[str]:
    """Return two hashes: one of the compiled instructions, and one of the layouts of all maps."""
    script = """
import hashlib, json, os, sys
from pathlib import Path
from otel_epping.kernel.load import compiler as child

source, defines, includes = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
if includes:
    child.HEADERS[:] = map(Path, includes)
    child.WARNINGS.append("-fcf-protection=none")  # BCC 0.31 uses an option that only x86 has
os.environ["BCC_KERNEL_SOURCE"] = str(source / "stubs")
bcc, libbpf = child.find_bcc()
defines |= child.bytecode.PLACEHOLDERS | {"HASH_KEY": 3}
text = child.with_line_directives(child.flatten(source, "epping.bpf.c", set()))
module = child.compile_source(bcc, text, defines, "-g0")
code, (maps, _) = child.bytecode.move_cold_blocks(child.compiled_code(bcc, module)), child.describe_maps(bcc, module)
child.load_programs(bcc, libbpf, module)
for what in (code, json.dumps(maps).encode()):
    print(hashlib.sha256(what).hexdigest())
"""
    defines = json.dumps(EppingConfig().defines())
    result = subprocess.run(
        [loader.SYSTEM_PYTHON, "-c", script, str(loader.source_folder()), defines, *includes],
        capture_output=True,
        text=True,
        env={**os.environ, "ARCH": architecture, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "warning" not in result.stderr
    return result.stdout.split()


def test_the_program_is_the_same_compiled_for_another_architecture() -> None:
    """BCC's compiler uses the C types of the target. Nevertheless, the instructions and layouts are the same for all
    targets."""
    other, headers = ARCHITECTURES[platform.machine()]
    ours = compiled_for("", [])
    assert len(ours) == 2
    assert compiled_for(other, [f"{headers}/include"]) == ours
