# SPDX-License-Identifier: Apache-2.0
"""Has the kernel program compiled and loaded by a child process, and takes over its file descriptors.

`loader_child.py` says why it is a child. What can go wrong there comes back as an EppingError with cause and cure.
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

from otel_epping.kernel import libbpf, privileges, requirements
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError

_log = logging.getLogger("otel_epping")

SYSTEM_PYTHON = "/usr/bin/python3"
_CHILD = Path(__file__).with_name("loader_child.py")
_NO_BCC = "BCC is not installed: apt-get install python3-bpfcc (never pip install bcc, that is another package)"
_WRONG_BCC = (
    "the module bcc at {path} is PyPI's crystal-lattice package, not the BPF Compiler Collection: "
    "pip uninstall bcc, then apt-get install python3-bpfcc"
)
# Kinds of failure after which another interpreter is tried.
_NOT_HERE = ("no-bcc", "wrong-bcc", "no-libbpf")
_MESSAGE_BYTES, _MESSAGE_FDS = 1 << 20, 64
# What a fault in the compiler ends with. SIGKILL comes from outside: from the kernel, when memory is short.
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS)
# What BCC prints, before it says that it failed to compile.
_NO_MAP = re.compile(r"could not open bpf map: (\w+), error: (.*)")


@dataclass(frozen=True)
class Map:
    """A map of the loaded program: its descriptor, and its value's and key's layouts, as BCC describes structs.

    A table that is one value, as bpf/direct_value.h has them, has so many `rows`, each of them with the layout.
    """

    fd: int
    layout: dict[str, Any] | None
    key_layout: dict[str, Any] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Program:
    """The loaded program: descriptors of its entry points and maps, by name.

    compiler     what compiled it: "BCC 0.31.0 with LLVM 19.1"
    bcc_version  "0.31.0"
    interpreter  the Python that has BCC
    verifier_s   how long the kernel took to verify both entry points, side by side
    """

    entry_points: dict[str, int]
    maps: dict[str, Map]
    compiler: str
    bcc_version: str
    interpreter: str
    verifier_s: float


def source_folder() -> Path:
    """The folder bpf/: in the package when installed, beside it in a checkout. Raises EppingError if it is gone."""
    package = Path(__file__).parents[1]
    for folder in (package / "bpf", package.parent / "bpf"):
        if (folder / "epping.bpf.c").is_file():
            return folder
    raise EppingError("the kernel program's source bpf/epping.bpf.c is missing: install otel-epping again")


def interpreters() -> list[str]:
    """Interpreters that may have BCC: our own if it can import a `bcc`, then the distribution's."""
    own = [sys.executable] if importlib.util.find_spec("bcc") else []
    return own + [path for path in (SYSTEM_PYTHON,) if path not in own and Path(path).exists()]


@dataclass(frozen=True)
class _Answer:
    """What one run of the child brought: its reply, or {} if it ended without one; descriptors; what it printed; how it
    ended; the versions of what compiles there, or {}.
    """

    reply: dict[str, Any]
    fds: list[int]
    printed: str
    status: int
    versions: dict[str, str]

    @property
    def compiler(self) -> str:
        """What compiles there; '' if the child ended before it had found out."""
        llvm = f" with LLVM {self.versions['llvm']}" if self.versions.get("llvm") else ""
        return f"BCC {self.versions['bcc']}{llvm}" if self.versions else ""


def _environment() -> dict[str, str]:
    """Ours without secrets, which are in OTEL_*, and without ARCH, for which BCC would compile."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OTEL_") and name != "ARCH"}


def _start_child(interpreter: str, fd: int, request: str) -> subprocess.Popen[str]:
    """Starts the child with one of our descriptors. Raises EppingError."""
    try:
        return subprocess.Popen(
            [interpreter, "-I", str(_CHILD), str(fd), request],
            pass_fds=[fd],
            env=_environment(),
            cwd="/",  # ours may have been deleted
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us, and not for a compiler at work
        )
    except OSError as error:
        cure = requirements.SHORTAGES.get(error.errno or 0, "run it by hand")
        what = error.filename or interpreter  # the file is /dev/null on a system without it
        raise EppingError(f"cannot start the loader ({what}: {error.strerror}): {cure}") from error


def _ask_child(interpreter: str, request: str) -> _Answer:
    """Runs the child to its end, in a thread that ends: the child gets no more capabilities than loading needs."""
    privileges.confine()
    ours, pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        # Not a number of a standard stream, in an application that has closed its own: the child has other ones there.
        with pair, socket.socket(fileno=fcntl.fcntl(pair, fcntl.F_DUPFD_CLOEXEC, 3)) as theirs:
            child = _start_child(interpreter, theirs.fileno(), request)
        _, printed = child.communicate()
        # The messages wait in the socket's buffer: they are far smaller than that, whatever the settings.
        versions, reply, fds = dict[str, str](), {}, list[int]()
        while message := socket.recv_fds(ours, _MESSAGE_BYTES, _MESSAGE_FDS):
            if not message[0]:
                break
            content = json.loads(message[0])
            if "bcc" in content:
                versions = content
            else:
                reply, fds = content, message[1]
    return _Answer(reply, fds, printed, child.returncode, versions)


def _ended_early(answer: _Answer) -> EppingError:
    """What to say of a child that ended without a reply."""
    if answer.status >= 0:
        return EppingError(
            f"the loader ended with status {answer.status} and no answer: run it by hand", answer.printed
        )
    number = -answer.status
    if number in _CRASHES and answer.compiler:
        return EppingError(
            f"the compiler crashed ({answer.compiler}, {signal.Signals(number).name}): please report this, with the "
            "output of otel-epping check; the versions of BCC that were tried are in docs/platforms.md",
            answer.printed,
        )
    killed = f"the loader was killed by signal {number}"
    return EppingError(f"{killed}: it needs 200 MB for a second, see dmesg if memory was short", answer.printed)


def _failure(answer: _Answer) -> EppingError:
    """What a user should read of the child's failure."""
    reply = answer.reply
    if not reply:
        return _ended_early(answer)
    detail = f"{answer.printed}\n{reply['error']}".strip()
    no_map = _NO_MAP.search(answer.printed)
    if reply["kind"] == "wrong-bcc":
        return EppingError(_WRONG_BCC.format(path=reply["error"]))
    if reply["kind"] == "no-bcc":
        return EppingError(_NO_BCC, detail)
    if reply["kind"] == "no-libbpf":
        return EppingError(libbpf.missing(), detail)
    cures = {os.strerror(number): requirements.SHORTAGES[number] for number in (errno.EMFILE, errno.ENFILE)}
    if no_map:
        cure = cures.get(no_map[2], "choose smaller limits")
        return EppingError(f"the kernel cannot make the map {no_map[1]} ({no_map[2]}): {cure}", detail)
    if reply["kind"] == "no-thread":
        return EppingError(f"the loader cannot start a thread: {requirements.SHORTAGES[errno.EAGAIN]}", detail)
    if reply["kind"] == "compile":
        missing = "file not found" in answer.printed
        cure = "apt-get install linux-libc-dev" if missing else "please report this, with what the compiler says above"
        return EppingError(f"{answer.compiler} cannot compile the kernel program: {cure}", detail)
    if reply["kind"] == "unable":
        cure = cures.get(reply["error"].partition(",")[0], "see dmesg for the reason")
        return EppingError(f"the kernel does not load the program ({reply['error']}): {cure}", detail)
    place = f" at {reply['place']}" if reply["place"] else ""
    return EppingError(
        f"the kernel's verifier rejects the program{place} ({reply['error']}: {reply['verdict']}): please report this "
        f"line and the log, of {answer.compiler} on Linux {platform.release()} {platform.machine()}",
        detail,
    )


def _program(answer: _Answer, interpreter: str) -> Program:
    reply = answer.reply
    if reply["warning"]:
        _log.warning("%s", reply["warning"])
    names = [*reply["programs"], *(entry["name"] for entry in reply["maps"])]
    if len(answer.fds) < len(names):  # the kernel drops those beyond the limit (unix(7), SCM_RIGHTS)
        for fd in answer.fds:
            os.close(fd)
        raise EppingError(f"cannot take over the program: {requirements.SHORTAGES[errno.EMFILE]}")
    by_name = dict(zip(names, answer.fds, strict=True))
    return Program(
        entry_points={name: by_name[name] for name in reply["programs"]},
        maps={
            entry["name"]: Map(by_name[entry["name"]], entry["layout"], entry["key_layout"], entry["rows"])
            for entry in reply["maps"]
        },
        compiler=answer.compiler,
        bcc_version=answer.versions["bcc"],
        interpreter=interpreter,
        verifier_s=reply["verifier_s"],
    )


def load(config: KernelConfig) -> Program:
    """Compiles and loads the program. Raises EppingError when that cannot be, with the compiler's or verifier's log."""
    requirements.kernel()
    requirements.file_systems()
    libbpf.version()
    requirements.cpus()
    requirements.privileges()
    requirements.bpf()
    request = json.dumps({"source": str(source_folder()), "defines": config.defines()})
    failures: list[EppingError] = []
    for interpreter in interpreters():
        # A thread that ends: what it has laid down, the child doesn't get, and no other thread lacks.
        with ThreadPoolExecutor(1) as confined:
            answer = confined.submit(_ask_child, interpreter, request).result()
        if "programs" in answer.reply:
            return _program(answer, interpreter)
        if answer.reply.get("kind") not in _NOT_HERE:
            raise _failure(answer)
        # No BCC here: the next interpreter may have it. If none does, a wrong one found on the way is what to say.
        if not failures or answer.reply["kind"] == "wrong-bcc":
            failures.insert(0, _failure(answer))
    raise failures[0] if failures else EppingError(_NO_BCC)
