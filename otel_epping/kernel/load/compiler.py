# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the kernel program with BCC, sends the file descriptors to the agent, and exits.

`import bcc` loads LLVM, which takes 160 MB of memory. If the agent imported bcc, the agent would hold the memory of
LLVM until the agent ends. So this script runs in a child process, which ends after half a second. The script runs under
the interpreter that has BCC (usually the distribution's /usr/bin/python3), and needs only the standard library and BCC.
The script communicates with the agent over a Unix socket:

    argv[1]   the descriptor of the socket
    argv[2]   JSON: {"source": the folder bpf/, "defines": {name: value}}
    replies   JSON messages. The first reply is sent when BCC is found: {"bcc": version, "llvm": version or ""}.
              The last reply after success is {"programs": [name...], "maps": [{"name", "layout", "key_layout",
              "rows"}...], "warning", "verifier_s"}. The descriptors of the programs and then the descriptors of the
              maps are sent with this reply (SCM_RIGHTS, unix(7)).
              The last reply after a failure is {"error": description, "kind": "no-bcc" | "no-libbpf" | "wrong-bcc" |
              "compile" | "no-thread" | "unable" | "load"}. The kind "load" means that the verifier rejected the
              program. A reply of the kind "load" also has "program", "location" ("file:line" in bpf/, or ""), and
              "verdict". If the script sends several replies after the first reply, only the last reply is valid.

The messages of the compiler and the verifier go to standard error, which the agent captures.
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


def import_neighbour(name: str) -> SimpleNamespace:
    """Runs another file of this folder. The interpreter that has BCC cannot import the file from our package."""
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name(name))))


bytecode, landlock, verifier_log = map(import_neighbour, ("bytecode.py", "landlock.py", "verifier_log.py"))

# The system's C headers for user space (linux-libc-dev).
HEADERS = [Path("/usr/include"), Path("/usr/include", sysconfig.get_config_var("MULTIARCH") or "")]
WARNINGS = ["-Wno-macro-redefined", "-Wall", "-Werror=implicit"]
FUNCTION = "epping"  # The function of epping.bpf.c from which the ingress and the egress program are made.
MAX_LOG_LINES = 100  # Number of lines that are printed from the end of the verifier's log.
PR_SET_PDEATHSIG = 1  # A constant of linux/prctl.h.
PROGRAMS = {"epping_ingress": 1, "epping_egress": 0}  # Name -> value of DIRECTION.
# The tables are in the order of enum direct_table (bpf/direct_value.h).
DIRECT_TABLES = ("control", "interfaces", "interface_counters", "flow_sets", "slot_cache", "packets")
INCLUDE = re.compile(r'^#include "(\w+\.h)"$')

Send = Callable[[dict[str, Any]], None]


class LoadError(Exception):
    """The program could not be compiled or loaded. `reply` is the message to the agent."""

    def __init__(self, kind: str, error: str, **details: str) -> None:
        super().__init__(error)
        self.reply = {"kind": kind, "error": error, **details}


class SourceLine(NamedTuple):
    """A line of a source file in bpf/. The first line of a file has the number 1."""

    file: str
    number: int
    text: str


def load(request: dict[str, Any], send: Send) -> tuple[dict[str, Any], list[int], Any]:
    """Compiles and loads the program.

    Sends the versions of BCC and LLVM first. Returns the last reply, the descriptors to send with it, and BCC's module,
    which keeps the descriptors open. Raises LoadError.
    """
    folder = Path(request["source"])
    os.environ["BCC_KERNEL_SOURCE"] = str(folder / "stubs")
    bcc, libbpf = find_bcc()
    send({"bcc": getattr(bcc, "__version__", "unknown"), "llvm": llvm_version()})
    warning = landlock.confine(readable_folders(folder))
    source = flatten(folder, "epping.bpf.c", set())
    # The key of the program's hash functions is generated here. If the key were in the agent's request, all users could
    # see the key on the command line. Only the tests set the key in their request.
    defines = {"HASH_KEY": secrets.randbits(63) | 1} | request["defines"] | bytecode.PLACEHOLDERS
    # The program is compiled without debug information (-g0). BCC 0.29 and later crash with reduced debug information.
    # With full debug information, compiling takes 10 % longer.
    module = compile_source(bcc, with_line_directives(source), defines, "-g0")
    start_s = time.monotonic()
    try:
        program_fds = load_programs(bcc, libbpf, module)
    except LoadError as failure:
        if failure.reply["kind"] == "load":
            send(failure.reply)  # sent before explain() is called, because the compiler may crash in explain()
            explain(bcc, libbpf, source, defines, failure)
        raise
    verifier_s = time.monotonic() - start_s
    maps, map_fds = describe_maps(bcc, module)
    reply = {"programs": list(PROGRAMS), "maps": maps, "warning": warning, "verifier_s": verifier_s}
    return reply, [*program_fds, *map_fds], module


# ---- find BCC


def find_bcc() -> tuple[Any, Any]:
    """Returns the module bcc and the library libbpf.

    Raises LoadError if the module or the library is missing, or if the module `bcc` belongs to another package.
    """
    try:
        import bcc
    except (ImportError, OSError) as error:  # OSError: the module is installed, but libbcc.so is missing
        raise LoadError("no-bcc", str(error)) from error
    if not getattr(bcc, "__file__", None):  # Python can import an empty folder as a module
        raise LoadError("no-bcc", "the module bcc is an empty folder")
    if not hasattr(bcc, "BPF"):
        raise LoadError("wrong-bcc", str(bcc.__file__))
    try:
        return bcc, ctypes.CDLL("libbpf.so.1")
    except OSError as error:
        raise LoadError("no-libbpf", str(error)) from error


def llvm_version() -> str:
    """Returns the version of the LLVM library that BCC has loaded. Returns '' if BCC is statically linked to LLVM."""
    library = re.search(r"/libLLVM\D*(\d[\d.]*)", Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace"))
    return library[1].strip(".") if library else ""


def readable_folders(source: Path) -> list[Path]:
    """Returns the folders that this process must be able to read: headers, the list of CPUs, and Python's modules."""
    return [source, *header_folders(HEADERS), Path("/sys/devices/system/cpu"), *map(Path, filter(None, sys.path))]


def header_folders(headers: Sequence[Path]) -> list[Path]:
    """Returns the folders `headers` and the folders that contain asm/*.h.

    On Debian 13, asm is a link to a folder outside of `headers`.
    """
    return [*headers, *((folder / "asm/types.h").resolve().parent for folder in headers)]


# ---- compile


def flatten(folder: Path, name: str, seen: set[str]) -> list[SourceLine]:
    """Returns the lines of a source file. Each #include line of a header in bpf/ is replaced by the header's lines.

    The lines are put into one text, because BCC rewrites map operations only in the main file. `seen` has the names of
    the files that are already included.
    """
    seen.add(name)
    lines = []
    for number, text in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1):
        include = INCLUDE.match(text)
        if include and include[1] not in seen:
            lines += flatten(folder, include[1], seen)
        elif not include and text != "#pragma once":
            lines.append(SourceLine(name, number, text))
    return lines


def with_line_directives(lines: list[SourceLine]) -> str:
    """Joins the lines. Adds #line directives, so that the compiler reports files and line numbers of bpf/."""
    text = []
    expected = ("", 0)
    for line in lines:
        if (line.file, line.number) != expected:
            text.append(f'#line {line.number} "{line.file}"')
        text.append(line.text)
        expected = line.file, line.number + 1
    return "\n".join(text)


def compile_source(bcc: Any, text: str, defines: dict[str, int | str], debug_option: str, debug: int = 0) -> Any:
    """Returns BCC's module of the compiled text.

    `debug_option` is the compiler's option for debug information (-g0, -g). `debug` has BCC's flags for debug output.
    Raises LoadError.
    """
    flags = [*(f"-I{folder}" for folder in HEADERS), *WARNINGS]
    # BCC always runs LLVM's optimizer on the output of clang, even if clang has optimized the output. So clang's own
    # passes are disabled. Without clang's own passes, compiling takes 0.3 s less, and the program is not slower. But
    # the source must not use features that only clang's own passes process. For example, __builtin_expect() would stay
    # in the code and prevent optimizations.
    flags += [debug_option, "-Os", "-Xclang", "-disable-llvm-passes"]
    flags += [f"-D{name}={value}" for name, value in defines.items()]
    try:
        return bcc.BPF(text=text, cflags=flags, debug=debug)
    except Exception as error:
        raise LoadError("compile", str(error)) from error


def compiled_code(bcc: Any, module: Any) -> bytes:
    """Returns the instructions that the compiler made from FUNCTION."""
    start, size = (
        find(module.module, FUNCTION.encode()) for find in (bcc.lib.bpf_function_start, bcc.lib.bpf_function_size)
    )
    return ctypes.string_at(start, size)


# ---- load both programs


def load_programs(bcc: Any, libbpf: Any, module: Any) -> list[int]:
    """Loads PROGRAMS in parallel, because the verifier takes 0.3 s for each program. Returns the descriptors.

    Raises LoadError if the kernel does not load a program.
    """
    code = bytecode.move_cold_blocks(compiled_code(bcc, module))
    codes = {name: bytecode.relocate(code, direction, direct_map_fds(module)) for name, direction in PROGRAMS.items()}
    try:
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda name: load_program(bcc, libbpf, name, codes[name]), PROGRAMS))
    except OSError as error:
        kind = "unable" if error.errno in (errno.EPERM, errno.ENOMEM, errno.EMFILE, errno.ENFILE) else "load"
        details = {"program": error.filename, "location": "", "verdict": "see the log"}
        raise LoadError(kind, f"{error.strerror}, {error.filename}", **details) from error


def load_program(bcc: Any, libbpf: Any, name: str, code: bytes) -> int:
    """Loads one program. Returns the program's descriptor. Raises OSError, with the program's name as `filename`."""
    fd: int = libbpf.bpf_prog_load(bcc.BPF.SCHED_CLS, name.encode(), b"GPL", code, len(code) // 8, None)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd), name)
    return fd


def direct_map_fds(module: Any) -> list[int]:
    """Returns the descriptors of DIRECT_TABLES, the tables whose rows the program accesses by address."""
    return [module[table].map_fd for table in DIRECT_TABLES]


def explain(bcc: Any, libbpf: Any, source: list[SourceLine], defines: dict[str, int | str], failure: LoadError) -> None:
    """Adds the source location and the verifier's verdict to a failure. Prints the last lines of the verifier's log."""
    texts = [line.text for line in source]
    with verifier_log.captured_stderr() as listing:
        module = compile_source(bcc, "\n".join(texts), defines, "-g", debug=verifier_log.DEBUG_SOURCE)
    program = failure.reply["program"]
    code = bytecode.relocate(compiled_code(bcc, module), PROGRAMS[program], direct_map_fds(module))
    rejection = verifier_log.explain(libbpf, bcc.BPF.SCHED_CLS, program, code, listing[0], texts)
    print(*rejection.log.splitlines()[-MAX_LOG_LINES:], sep="\n", file=sys.stderr)
    line = source[rejection.line - 1] if rejection.line else None
    failure.reply |= {"location": f"{line.file}:{line.number}" if line else "", "verdict": rejection.verdict}


# ---- describe the maps


def describe_maps(bcc: Any, module: Any) -> tuple[list[dict[str, Any]], list[int]]:
    """Returns the names and layouts of all maps, and their descriptors."""
    maps, fds = [], []
    bcc.lib.bpf_table_name.restype = ctypes.c_char_p
    for index in range(bcc.lib.bpf_num_tables(module.module)):
        name = bcc.lib.bpf_table_name(module.module, index).decode()
        table = module[name]
        # The value of a direct table (bpf/direct_value.h) is a union of the first row and the bytes of all rows.
        union = dict(field[:2] for field in table.Leaf._fields_) if issubclass(table.Leaf, ctypes.Union) else {}
        value = union.get("row", table.Leaf)
        layouts = {
            key: layout(kind) if hasattr(kind, "_fields_") else None
            for key, kind in (("key_layout", getattr(table, "Key", None)), ("layout", value))
        }
        rows = ctypes.sizeof(table.Leaf) // ctypes.sizeof(value) if union else None
        maps.append({"name": name, "rows": rows} | layouts)
        fds.append(table.map_fd)
    return maps, fds


def layout(struct: Any) -> dict[str, Any]:
    """Describes a ctypes structure.

        {"size": bytes, "fields": [[name, offset, element, count]...]}

    `element` is "u8", "u16", "u32", "u64", or the layout of a structure. If the field is an array, `count` is the
    length of the array. Otherwise `count` is 0.
    """
    fields: list[list[Any]] = []
    for name, kind, *_ in struct._fields_:
        count = 0
        if issubclass(kind, ctypes.Array):
            count, kind = kind._length_, kind._type_
        if name.startswith("__pad"):
            continue
        element = layout(kind) if issubclass(kind, ctypes.Structure) else f"u{8 * ctypes.sizeof(kind)}"
        fields.append([name, getattr(struct, name).offset, element, count])
    return {"size": ctypes.sizeof(struct), "fields": fields}


# ---- talk to the agent


def main() -> None:
    """Answers one request. When the thread that started this process ends, the kernel kills this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = socket.socket(fileno=int(sys.argv[1]))

    def send(message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        socket.send_fds(channel, [json.dumps(message).encode()], fds)

    try:
        reply, fds, _module = load(json.loads(sys.argv[2]), send)
        send(reply, fds)
    except LoadError as failure:
        send(failure.reply)
    except RuntimeError as error:
        if str(error) != "can't start new thread":
            raise
        send({"kind": "no-thread", "error": str(error)})
    sys.stderr.flush()
    os._exit(0)  # the agent waits for the end of this process, and LLVM's destructors would take 20 ms


if __name__ == "__main__":
    main()
