# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the kernel program in a child process, and receives the program's file descriptors.

The child process runs compiler.py. The docstring of compiler.py says why a child process is needed. Each failure
becomes an EppingError that names the cause and the cure.
"""

import errno
import fcntl
import importlib.util
import json
import logging
import os
import platform
import re
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_epping.errors import EppingError
from otel_epping.kernel import libbpf
from otel_epping.kernel.config import EppingConfig
from otel_epping.kernel.load import capabilities, requirements
from otel_epping.kernel.program import Map, Program

_log = logging.getLogger(__name__)

SYSTEM_PYTHON = "/usr/bin/python3"
_CHILD = Path(__file__).with_name("compiler.py")
_NO_BCC = "BCC is not installed: apt-get install python3-bpfcc (not pip install bcc, which is another package)"
_WRONG_BCC = (
    "the module bcc at {path} is PyPI's crystal-lattice package, not the BPF Compiler Collection: "
    "pip uninstall bcc, then apt-get install python3-bpfcc"
)
# The kinds of failures after which the next interpreter is tried.
_TRY_NEXT = ("no-bcc", "wrong-bcc", "no-libbpf")
_MESSAGE_BYTES, _MESSAGE_FDS = 1 << 20, 64
# The signals that a bug in the compiler can cause. SIGKILL has other causes, for example a lack of memory.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
# If BCC cannot create a map, BCC prints this text, and then wrongly reports that the program cannot be compiled.
_MAP_FAILED = re.compile(r"could not open bpf map: (\w+), error: (.*)")


def source_folder() -> Path:
    """Returns the folder bpf/ of the installed package. In a checkout of the repository, bpf/ is next to the package.

    Raises EppingError if the folder is missing.
    """
    package = Path(__file__).parents[2]
    for folder in (package / "bpf", package.parent / "bpf"):
        if (folder / "epping.bpf.c").is_file():
            return folder
    raise EppingError("the kernel program's source bpf/epping.bpf.c is missing: install otel-epping again")


def interpreters() -> list[str]:
    """Returns the interpreters that may have BCC.

    The list starts with the interpreter that runs the agent, if that interpreter has a module `bcc`. The system's
    interpreter is the last in the list.
    """
    own = [sys.executable] if importlib.util.find_spec("bcc") else []
    return own + [path for path in (SYSTEM_PYTHON,) if path not in own and Path(path).exists()]


@dataclass(frozen=True)
class _Outcome:
    """The outcome of one run of the child process.

    reply     the last reply of the child (compiler.py); {} if the child ended without a reply
    fds       the descriptors that were sent with the reply
    stderr    the standard error output of the child
    status    the exit status of the child; the negative signal number if a signal ended the child
    versions  the child's first message, with the versions of BCC and LLVM; {} if the child ended before it sent them
    """

    reply: dict[str, Any]
    fds: list[int]
    stderr: str
    status: int
    versions: dict[str, str]

    @property
    def compiler(self) -> str:
        """The versions of BCC and LLVM as a text, such as "BCC 0.31.0 with LLVM 19.1"; '' if they are not known."""
        llvm = f" with LLVM {self.versions['llvm']}" if self.versions.get("llvm") else ""
        return f"BCC {self.versions['bcc']}{llvm}" if self.versions else ""


def _environment() -> dict[str, str]:
    """Returns our environment without OTEL_* and ARCH.

    OTEL_* may contain secrets. If ARCH is set, BCC compiles for the architecture in ARCH.
    """
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_") and name != "ARCH"}


def _start_child(interpreter: str, fd: int, request: str) -> subprocess.Popen[str]:
    """Starts the child, which inherits the descriptor `fd`. Raises EppingError."""
    try:
        return subprocess.Popen(
            [interpreter, "-I", str(_CHILD), str(fd), request],
            pass_fds=[fd],
            env=_environment(),
            cwd="/",  # the agent's working directory may have been deleted
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C must not interrupt the compiler
        )
    except OSError as error:
        cure = requirements.SHORTAGES.get(error.errno or 0, "run it by hand")
        file = error.filename or interpreter  # if the system has no /dev/null, error.filename is /dev/null
        raise EppingError(f"cannot start the loader ({file}: {error.strerror}): {cure}") from error


def _run_child(interpreter: str, request: str) -> _Outcome:
    """Runs the child process until it ends.

    The calling thread permanently drops all capabilities except the capabilities that loading needs, and the child
    inherits the kept capabilities. So call _run_child() in a separate thread.
    """
    capabilities.confine()
    ours, pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        # The child uses the descriptors 0 to 2 for its own standard streams. So the child's end of the socket must have
        # a descriptor above 2. Without fcntl(), the child's end could get a descriptor below 3 if the application has
        # closed its standard streams.
        with pair, socket.socket(fileno=fcntl.fcntl(pair, fcntl.F_DUPFD_CLOEXEC, 3)) as theirs:
            child = _start_child(interpreter, theirs.fileno(), request)
        _, stderr = child.communicate()
        # The child has ended, and its messages are in the socket's buffer. All messages together are far smaller than
        # the buffer.
        versions, reply, fds = dict[str, str](), {}, list[int]()
        while message := socket.recv_fds(ours, _MESSAGE_BYTES, _MESSAGE_FDS):
            if not message[0]:
                break
            content = json.loads(message[0])
            if "bcc" in content:
                versions = content
            else:
                reply, fds = content, message[1]
    return _Outcome(reply, fds, stderr, child.returncode, versions)


def _ended_early(outcome: _Outcome) -> EppingError:
    """Returns the error for a child that ended without a reply."""
    if outcome.status >= 0:
        return EppingError(
            f"the loader ended with status {outcome.status} and without a reply: run it by hand", outcome.stderr
        )
    number = -outcome.status
    if number in _CRASHES and outcome.compiler:
        return EppingError(
            f"the compiler crashed ({outcome.compiler}, {signal.Signals(number).name}): please report this, with the "
            "output of otel-epping check; docs/platforms.md lists the tested versions of BCC",
            outcome.stderr,
        )
    killed = f"the loader was killed by signal {number}"
    return EppingError(
        f"{killed}: it needs 200 MB of memory for a second; dmesg shows whether memory was exhausted", outcome.stderr
    )


def _failure(outcome: _Outcome) -> EppingError:
    """Returns the error for a child that failed."""
    reply = outcome.reply
    if not reply:
        return _ended_early(outcome)
    detail = f"{outcome.stderr}\n{reply['error']}".strip()
    map_failed = _MAP_FAILED.search(outcome.stderr)
    if reply["kind"] == "wrong-bcc":
        return EppingError(_WRONG_BCC.format(path=reply["error"]))
    if reply["kind"] == "no-bcc":
        return EppingError(_NO_BCC, detail)
    if reply["kind"] == "no-libbpf":
        return EppingError(libbpf.missing_message(), detail)
    cures = {os.strerror(number): requirements.SHORTAGES[number] for number in (errno.EMFILE, errno.ENFILE)}
    if map_failed:
        cure = cures.get(map_failed[2], "choose smaller limits")
        return EppingError(f"the kernel cannot create the map {map_failed[1]} ({map_failed[2]}): {cure}", detail)
    if reply["kind"] == "no-thread":
        return EppingError(f"the loader cannot start a thread: {requirements.SHORTAGES[errno.EAGAIN]}", detail)
    if reply["kind"] == "compile":
        no_header = "file not found" in outcome.stderr
        cure = "apt-get install linux-libc-dev" if no_header else "please report this, with the compiler's output above"
        return EppingError(f"{outcome.compiler} cannot compile the kernel program: {cure}", detail)
    if reply["kind"] == "unable":
        cure = cures.get(reply["error"].partition(",")[0], "see dmesg for the reason")
        return EppingError(f"the kernel does not load the program ({reply['error']}): {cure}", detail)
    location = f" at {reply['location']}" if reply["location"] else ""
    return EppingError(
        f"the kernel's verifier rejects the program{location} ({reply['error']}: {reply['verdict']}): please report "
        f"this line and the log ({outcome.compiler} on Linux {platform.release()} {platform.machine()})",
        detail,
    )


def _program(outcome: _Outcome, interpreter: str) -> Program:
    """Returns the loaded program. Logs the child's warning. Raises EppingError if descriptors are missing."""
    reply = outcome.reply
    if reply["warning"]:
        _log.warning("%s", reply["warning"])
    names = [*reply["programs"], *(entry["name"] for entry in reply["maps"])]
    if len(outcome.fds) < len(names):  # the kernel discards descriptors beyond RLIMIT_NOFILE (unix(7), SCM_RIGHTS)
        for fd in outcome.fds:
            os.close(fd)
        raise EppingError(
            f"cannot receive the descriptors of the program and its maps: {requirements.SHORTAGES[errno.EMFILE]}"
        )
    by_name = dict(zip(names, outcome.fds, strict=True))
    return Program(
        entry_points={name: by_name[name] for name in reply["programs"]},
        maps={
            entry["name"]: Map(by_name[entry["name"]], entry["layout"], entry["key_layout"], entry["rows"])
            for entry in reply["maps"]
        },
        compiler=outcome.compiler,
        bcc_version=outcome.versions["bcc"],
        interpreter=interpreter,
        verifier_s=reply["verifier_s"],
    )


def load(config: EppingConfig) -> Program:
    """Compiles and loads the program. Does not attach the program.

    If the program cannot be loaded, raises EppingError. The field `detail` of the error has the log of the compiler or
    the verifier.
    """
    requirements.check_kernel()
    requirements.check_file_systems()
    libbpf.version()
    requirements.check_cpus()
    requirements.check_privileges()
    requirements.check_bpf()
    request = json.dumps({"source": str(source_folder()), "defines": config.defines()})
    failures: list[EppingError] = []
    for interpreter in interpreters():
        # The child inherits the capabilities of the thread that starts it. A separate thread drops most of its own
        # capabilities and then starts the child. So the calling thread keeps its capabilities.
        with ThreadPoolExecutor(1) as child_thread:
            outcome = child_thread.submit(_run_child, interpreter, request).result()
        if "programs" in outcome.reply:
            return _program(outcome, interpreter)
        if outcome.reply.get("kind") not in _TRY_NEXT:
            raise _failure(outcome)
        # The tried interpreter has no BCC, but the next interpreter may have BCC. If no interpreter has BCC, an error
        # about a wrong module `bcc` is the most useful error.
        if not failures or outcome.reply["kind"] == "wrong-bcc":
            failures.insert(0, _failure(outcome))
    raise failures[0] if failures else EppingError(_NO_BCC)
