# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the kernel program with BCC, hands its file descriptors over, and exits.

`import bcc` brings all of LLVM into a process: 160 MB that the agent would carry for years. So this script, which needs
nothing but the standard library and BCC, runs for half a second in a process of its own, under whichever interpreter
has BCC (the distribution's /usr/bin/python3, as a rule), and speaks to the agent over a Unix socket:

    argv[1]   the socket's descriptor
    argv[2]   JSON: {"source": the folder bpf/, "defines": {name: value}}
    replies   JSON messages. Once it has found BCC, {"bcc": version, "llvm": version or ""}. Then, with the descriptors
              of programs and then maps (SCM_RIGHTS, unix(7)),
              {"programs": [name...], "maps": [{"name", "layout", "key_layout", "rows"}...], "warning", "verifier_s"};
              or {"error": what happened, "kind": "no-bcc" | "no-libbpf" | "wrong-bcc" | "compile" | "no-thread" |
              "unable" | "load"}.
              "load" is a rejection by the verifier: then there are "program", "place" in our source (or ""), "verdict".
              The last reply counts.

What compiler and verifier print goes to standard error, which the agent keeps.
"""

import ctypes
import errno
import json
import os
import re
import runpy
import secrets
import signal
import socket
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple


def sibling(name: str) -> SimpleNamespace:
    """A file of ours by its path: our package isn't on the path of the interpreter that has BCC."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(name))))


bytecode, landlock, verifier_log = map(sibling, ("bytecode.py", "landlock.py", "verifier_log.py"))

# The C headers of the system, of user space: linux-libc-dev.
HEADERS = [Path("/usr/include"), Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "")]
WARNINGS = ["-Wno-macro-redefined", "-Wall", "-Werror=implicit"]
FUNCTION = "epping"
LOG_LINES = 100  # that are kept of the verifier's log, the last ones
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PROGRAMS = {"epping_ingress": 1, "epping_egress": 0}  # name -> what stands for DIRECTION
# In the order of enum direct_table (bpf/direct_value.h).
DIRECT_TABLES = ("control", "interfaces", "interface_counters", "flow_sets", "slot_cache", "packets")
INCLUDE = re.compile(r'^#include "(\w+\.h)"$')


class LoadError(Exception):
    """Why there is no program; `reply` is what the agent is sent."""

    def __init__(self, kind: str, error: str, **more: str) -> None:
        super().__init__(error)
        self.reply = {"kind": kind, "error": error, **more}


class SourceLine(NamedTuple):
    """A line of our source."""

    file: str
    number: int
    text: str


def flatten(folder: Path, name: str, seen: set[str]) -> list[SourceLine]:
    """The lines of a source file, with our own headers put in place: BCC rewrites map operations in one file only."""
    seen.add(name)
    lines = []
    for number, text in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1):
        include = INCLUDE.match(text)
        if include and include[1] not in seen:
            lines += flatten(folder, include[1], seen)
        elif not include and text != "#pragma once":
            lines.append(SourceLine(name, number, text))
    return lines


def with_places(lines: list[SourceLine]) -> str:
    """These lines as one text, in which `#line` keeps file and line true in what the compiler says."""
    text = []
    following = ("", 0)
    for line in lines:
        if (line.file, line.number) != following:
            text.append(f'#line {line.number} "{line.file}"')
        text.append(line.text)
        following = line.file, line.number + 1
    return "\n".join(text)


def layout(leaf: Any) -> dict[str, Any]:
    """Fields of a table's leaf as [name, offset, element, count]; element is 'u8'..'u64' or a layout itself."""
    fields: list[list[Any]] = []
    for name, kind, *_ in leaf._fields_:
        count = 0
        if issubclass(kind, ctypes.Array):
            count, kind = kind._length_, kind._type_
        if name.startswith("__pad"):
            continue
        element = layout(kind) if issubclass(kind, ctypes.Structure) else f"u{8 * ctypes.sizeof(kind)}"
        fields.append([name, getattr(leaf, name).offset, element, count])
    return {"size": ctypes.sizeof(leaf), "fields": fields}


def compiled(bcc: Any, module: Any) -> bytes:
    """The instructions of the compiled function, as the compiler left them."""
    start, size = (
        find(module.module, FUNCTION.encode()) for find in (bcc.lib.bpf_function_start, bcc.lib.bpf_function_size)
    )
    return ctypes.string_at(start, size)


def llvm_version() -> str:
    """The version of the LLVM library that BCC has brought into the process; '' if BCC has it built in."""
    library = re.search(r"/libLLVM\D*(\d[\d.]*)", Path("/proc/self/maps").read_text())
    return library[1].strip(".") if library else ""


def addresses_of(module: Any) -> list[int]:
    """Descriptors of the tables whose rows the program reaches by their address."""
    return [module[table].map_fd for table in DIRECT_TABLES]


def load_program(bcc: Any, libbpf: Any, name: str, code: bytes) -> int:
    """Loads one of PROGRAMS: its descriptor. Raises OSError if the kernel refuses it."""
    fd: int = libbpf.bpf_prog_load(bcc.BPF.SCHED_CLS, name.encode(), b"GPL", code, len(code) // 8, None)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), name)
    return fd


def header_folders(headers: Sequence[Path]) -> list[Path]:
    """Where the system's headers are. Debian 13 has those of asm/ elsewhere, and links to them."""
    return [*headers, *((folder / "asm/types.h").resolve().parent for folder in headers)]


def find_bcc() -> tuple[Any, Any]:
    """The modules bcc and libbpf. Raises LoadError if one of them is missing, or bcc is another package."""
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: the module is there, libbcc.so is not
        raise LoadError("no-bcc", str(error)) from error
    if not getattr(bcc, "__file__", None):  # an empty folder, left over from a package that is gone, is importable
        raise LoadError("no-bcc", "the module bcc is an empty folder")
    if not hasattr(bcc, "BPF"):
        raise LoadError("wrong-bcc", str(bcc.__file__))
    try:
        return bcc, ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        raise LoadError("no-libbpf", str(error)) from error


def compile_source(bcc: Any, text: str, defines: dict[str, int], information: str, debug: int = 0) -> Any:
    """BCC's module of the compiled text; `information` is the compiler's option for debug information, `debug` BCC's.

    Raises LoadError.
    """
    flags = [*(f"-I{folder}" for folder in HEADERS), *WARNINGS]
    # BCC optimizes what clang hands on, whatever that did before. Left to BCC alone it takes 0.3 s less, and packets no
    # longer; but what only clang's own passes understand, as __builtin_expect(), is in the way then.
    flags += [information, "-Os", "-Xclang", "-disable-llvm-passes"]
    flags += [f"-D{name}={value}" for name, value in defines.items()]
    try:
        return bcc.BPF(text=text, cflags=flags, debug=debug)
    except Exception as error:
        raise LoadError("compile", str(error)) from error


def load_programs(bcc: Any, libbpf: Any, module: Any) -> list[int]:
    """Loads both of PROGRAMS, each in a thread, since the verifier takes a third of a second for each: descriptors.

    Raises LoadError if the kernel rejects one.
    """
    code = bytecode.move_cold_blocks(compiled(bcc, module))
    codes = {name: bytecode.relocate(code, direction, addresses_of(module)) for name, direction in PROGRAMS.items()}
    try:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda name: load_program(bcc, libbpf, name, codes[name]), PROGRAMS))
    except OSError as error:
        kind = "unable" if error.errno in (errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE) else "load"
        more = {"program": error.filename, "place": "", "verdict": "see the log"}
        raise LoadError(kind, f"{error.strerror}, {error.filename}", **more) from error


def explain(bcc: Any, libbpf: Any, lines: list[SourceLine], defines: dict[str, int], failure: LoadError) -> None:
    """Adds the place in the source and the verifier's verdict to the failure to load a program; prints the log."""
    source = [line.text for line in lines]
    with verifier_log.listing() as listed:
        module = compile_source(bcc, "\n".join(source), defines, "-g", debug=verifier_log.DEBUG_SOURCE)
    program = failure.reply["program"]
    code = bytecode.relocate(compiled(bcc, module), PROGRAMS[program], addresses_of(module))
    found = verifier_log.explain(libbpf, bcc.BPF.SCHED_CLS, program, code, listed[0], source)
    print(*found.log.splitlines()[-LOG_LINES:], sep="\n", file=sys.stderr)
    place = lines[found.line - 1] if found.line else None
    failure.reply |= {"place": f"{place.file}:{place.number}" if place else "", "verdict": found.verdict}


def describe_maps(bcc: Any, module: Any) -> tuple[list[dict[str, Any]], list[int]]:
    """Names and layouts of all maps, and their descriptors."""
    maps, descriptors = [], []
    bcc.lib.bpf_table_name.restype = ctypes.c_char_p
    for index in range(bcc.lib.bpf_num_tables(module.module)):
        name = bcc.lib.bpf_table_name(module.module, index).decode()
        table = module[name]
        # Of a direct table, the leaf is a union of its first row, and of the bytes of all rows.
        fields = dict(field[:2] for field in table.Leaf._fields_) if issubclass(table.Leaf, ctypes.Union) else {}
        leaf = fields.get("row", table.Leaf)
        layouts = {
            part: layout(kind) if hasattr(kind, "_fields_") else None
            for part, kind in (("key_layout", getattr(table, "Key", None)), ("layout", leaf))
        }
        rows = ctypes.sizeof(table.Leaf) // ctypes.sizeof(leaf) if fields else None
        maps.append({"name": name, "rows": rows} | layouts)
        descriptors.append(table.map_fd)
    return maps, descriptors


def load(request: dict[str, Any], announce: Callable[[dict[str, Any]], None]) -> tuple[dict[str, Any], list[int], Any]:
    """Returns (reply, descriptors, module); the module keeps the descriptors open until they are sent.

    Calls `announce` with the versions of the compiler before it compiles, and with a reply that may be the last. Raises
    LoadError.
    """
    folder = Path(request["source"])
    os.environ["BCC_KERNEL_SOURCE"] = str(folder / "stubs")
    bcc, libbpf = find_bcc()
    announce({"bcc": getattr(bcc, "__version__", "unknown"), "llvm": llvm_version()})
    # What the compiler includes, how many CPUs there are, and what Python may still import.
    folders = [folder, *header_folders(HEADERS), Path("/sys/devices/system/cpu"), *map(Path, filter(None, sys.path))]
    warning = landlock.confine(folders)
    lines = flatten(folder, "epping.bpf.c", set())
    # The loader's own numbers are positive, so the compiler takes them for int. The key of hashes is made here, where
    # no command line shows it.
    own = {name: getattr(bytecode, name) for name in ("DIRECTION", "DIRECT", "COLD")}
    defines = request["defines"] | own | {"HASH_KEY": secrets.randbits(63) | 1}
    # BCC 0.29 and later crash with less debug information than all, and with all they take a tenth longer.
    module = compile_source(bcc, with_places(lines), defines, "-g0")
    began = time.monotonic()
    try:
        programs = load_programs(bcc, libbpf, module)
    except LoadError as failure:
        if failure.reply["kind"] == "load":
            announce(failure.reply)  # in case that the compiler crashes with debug information
            explain(bcc, libbpf, lines, defines, failure)
        raise
    verifier_s = time.monotonic() - began
    maps, descriptors = describe_maps(bcc, module)
    reply = {"programs": list(PROGRAMS), "maps": maps, "warning": warning, "verifier_s": verifier_s}
    return reply, [*programs, *descriptors], module


def main() -> None:
    """Answers one request. Dies with the thread that asked: nobody else wants the answer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = socket.socket(fileno=int(sys.argv[1]))

    def send(message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        socket.send_fds(channel, [json.dumps(message).encode()], descriptors)

    try:
        reply, descriptors, _module = load(json.loads(sys.argv[2]), send)
        send(reply, descriptors)
    except LoadError as failure:
        send(failure.reply)
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        send({"kind": "no-thread", "error": str(error)})
    sys.stderr.flush()
    os._exit(0)  # the agent waits for our end, and LLVM would tidy up for 20 ms


if __name__ == "__main__":
    main()
