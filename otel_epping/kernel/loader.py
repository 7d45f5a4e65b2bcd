# SPDX-License-Identifier: Apache-2.0
"""Has the kernel program compiled and loaded by a child process, and takes over its file descriptors.

`loader_child.py` says why it is a child. What can go wrong there comes back as an EppingError with cause and cure.
"""

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_epping.kernel import privileges, requirements
from otel_epping.kernel.config import KernelConfig
from otel_epping.kernel.errors import EppingError

SYSTEM_PYTHON = "/usr/bin/python3"
_CHILD = Path(__file__).with_name("loader_child.py")
_NO_BCC = "BCC is not installed: apt-get install python3-bpfcc (never pip install bcc, that is another package)"
_WRONG_BCC = (
    "the module bcc at {path} is PyPI's crystal-lattice package, not the BPF Compiler Collection: "
    "pip uninstall bcc, then apt-get install python3-bpfcc"
)
# What BCC prints, before it says that it failed to compile.
_NO_MAP = re.compile(r"could not open bpf map: (\w+), error: (.*)")


@dataclass(frozen=True)
class Map:
    """A map of the loaded program: its descriptor, and its value's and key's layouts, as BCC describes structs.

    A table that is one value, as bpf/direct.h has them, has so many `rows`, each of them with the layout.
    """

    fd: int
    layout: dict[str, Any] | None
    key_layout: dict[str, Any] | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Program:
    """The loaded program: descriptors of its entry points and maps, by name; how long the kernel took to verify it."""

    entry_points: dict[str, int]
    maps: dict[str, Map]
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


def _ask_child(interpreter: str, request: str) -> tuple[dict[str, Any], list[int], str]:
    """One run of the child: its reply, the descriptors it sent, and what it printed."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            command = [interpreter, "-I", str(_CHILD), str(theirs.fileno()), request]
            child = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                env={name: value for name, value in os.environ.items() if not name.startswith("OTEL_")},  # has secrets
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for us, and not for a compiler at work
            )
        _, printed = child.communicate()
        # The reply waits in the socket's buffer: it is far smaller than that, whatever the settings.
        message, fds, _, _ = socket.recv_fds(ours, 1 << 20, 64)
    if not message and child.returncode < 0:
        killed = f"the loader was killed by signal {-child.returncode}"
        raise EppingError(f"{killed}: it needs 200 MB for a second, see dmesg if memory was short", printed)
    if not message:
        raise EppingError(f"the loader ended with status {child.returncode} and no answer: run it by hand", printed)
    return json.loads(message), fds, printed


def _failure(reply: dict[str, Any], printed: str) -> EppingError:
    """What a user should read of the child's failure."""
    detail = f"{printed}\n{reply['error']}".strip()
    no_map = _NO_MAP.search(printed)
    if reply["kind"] == "wrong-bcc":
        return EppingError(_WRONG_BCC.format(path=reply["error"]))
    if reply["kind"] == "no-bcc":
        return EppingError(_NO_BCC, detail)
    if no_map:
        return EppingError(f"the kernel cannot make the map {no_map[1]} ({no_map[2]}): choose smaller limits", detail)
    if reply["kind"] == "compile":
        return EppingError("BCC cannot compile the kernel program: apt-get install linux-libc-dev", detail)
    return EppingError(f"the kernel refuses the program ({reply['error']}): see the log above", detail)


def load(config: KernelConfig) -> Program:
    """Compiles and loads the program. Raises EppingError when that cannot be, with the compiler's or verifier's log."""
    requirements.kernel()
    requirements.cpus()
    requirements.privileges()
    request = json.dumps({"source": str(source_folder()), "defines": config.defines()})
    failures: list[EppingError] = []
    for interpreter in interpreters():
        # A thread that ends: what it has laid down, the child doesn't get, and no other thread lacks.
        with ThreadPoolExecutor(1, initializer=privileges.confine) as confined:
            reply, fds, printed = confined.submit(_ask_child, interpreter, request).result()
        if "error" not in reply:
            names = [*reply["programs"], *(entry["name"] for entry in reply["maps"])]
            by_name = dict(zip(names, fds, strict=True))
            return Program(
                entry_points={name: by_name[name] for name in reply["programs"]},
                maps={
                    entry["name"]: Map(by_name[entry["name"]], entry["layout"], entry["key_layout"], entry["rows"])
                    for entry in reply["maps"]
                },
                bcc_version=reply["bcc"],
                interpreter=interpreter,
                verifier_s=reply["verifier_s"],
            )
        if reply["kind"] in ("compile", "load"):
            raise _failure(reply, printed)
        # No BCC here: the next interpreter may have it. If none does, a wrong one found on the way is what to say.
        if not failures or reply["kind"] == "wrong-bcc":
            failures.insert(0, _failure(reply, printed))
    raise failures[0] if failures else EppingError(_NO_BCC)
