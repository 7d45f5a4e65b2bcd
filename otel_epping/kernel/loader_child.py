# SPDX-License-Identifier: Apache-2.0
"""Compiles and loads the kernel program with BCC, hands its file descriptors over, and exits.

`import bcc` brings all of LLVM into a process: 160 MB that the agent would carry for years. So this script, which needs
nothing but the standard library and BCC, runs for half a second in a process of its own, under whichever interpreter
has BCC (the distribution's /usr/bin/python3, as a rule), and speaks to the agent over a Unix socket:

    argv[1]   the socket's descriptor
    argv[2]   JSON: {"source": the folder bpf/, "defines": {name: value}}
    replies   one JSON message with the descriptors of programs, then maps (SCM_RIGHTS, unix(7)):
              {"programs": [name...], "maps": [{"name", "layout", "key_layout", "rows"}...], "bcc": version,
              "verifier_s"}
              or {"error": what happened, "kind": "no-bcc" | "wrong-bcc" | "compile" | "load"}

What compiler and verifier print goes to standard error, which the agent keeps.
"""

import ctypes
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Beside us; our package isn't on the path of the interpreter that has BCC.
bytecode = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("bytecode.py"))))

FUNCTION = "epping"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
# Linux's landlock.h; the numbers of its system calls are the same on all machines.
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446
LANDLOCK_CREATE_RULESET_VERSION = 1
# Version -> the rights that it brought: to run, write, read, remove and make files; to link and rename; to cut short.
LANDLOCK_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14}
LANDLOCK_READ = 1 << 2 | 1 << 3  # files and folders
PROGRAMS = {"epping_ingress": 1, "epping_egress": 0}  # name -> what stands for DIRECTION
# In the order of enum direct_table (bpf/direct.h).
DIRECT_TABLES = ("control", "interfaces", "interface_counters", "flow_sets", "pairs", "packets")
INCLUDE = re.compile(r'^#include "(\w+\.h)"$')


def flatten(folder: Path, name: str, seen: set[str]) -> str:
    """The text of a source file with our own headers put in place.

    BCC rewrites map operations in the main file only; `#line` keeps file and line true in what the compiler says.
    """
    seen.add(name)
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((folder / name).read_text(encoding="utf-8").splitlines(), 1):
        include = INCLUDE.match(line)
        if include and include[1] not in seen:
            lines += [flatten(folder, include[1], seen), f'#line {number + 1} "{name}"']
        elif include or line == "#pragma once":
            lines.append("")
        else:
            lines.append(line)
    return "\n".join(lines)


class LoadOptions(ctypes.Structure):
    """libbpf's struct bpf_prog_load_opts (bpf/bpf.h): its size, what is left at 0, where the verifier's log goes."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("others", ctypes.c_uint32 * 9),
        ("pointers", ctypes.c_uint64 * 5),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log", ctypes.c_char_p),
    )


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
    """The instructions of the compiled function, those that are rare behind all others."""
    start, size = (
        find(module.module, FUNCTION.encode()) for find in (bcc.lib.bpf_function_start, bcc.lib.bpf_function_size)
    )
    arranged: bytes = bytecode.arranged(ctypes.string_at(start, size))
    return arranged


def load_program(bcc: Any, libbpf: Any, name: str, code: bytes) -> int:
    """Loads one of PROGRAMS: its descriptor. If the kernel refuses it, prints the verifier's log; raises OSError."""
    arguments = bcc.BPF.SCHED_CLS, name.encode(), b"GPL", code, len(code) // 8
    fd: int = libbpf.bpf_prog_load(*arguments, None)
    if fd < 0:
        log = ctypes.create_string_buffer(1 << 24)
        options = LoadOptions(ctypes.sizeof(LoadOptions), log_level=1, log_size=len(log), log=ctypes.addressof(log))
        libbpf.bpf_prog_load(*arguments, ctypes.byref(options))
        print(log.value.decode(), file=sys.stderr)
        raise OSError(-fd, os.strerror(-fd), name)
    return fd


def confine(readable: list[Path]) -> None:
    """From now on this process opens what is in these folders, to read it, and nothing else; it runs no file at all.

    A compiler is a large thing to give capabilities to. And BCC would read all symbols of the kernel, a tenth of a
    second and more, for a helper that we don't call. Landlock (landlock(7)) is in Linux since 5.13, if it is enabled;
    where it isn't, all is as the capabilities have it. It asks for no_new_privs, which is set already:
    by privileges.py, for whoever starts us.
    """
    system = ctypes.CDLL(None)
    version = system.syscall(LANDLOCK_CREATE_RULESET, None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    handled = ctypes.c_uint64(sum(rights for since, rights in LANDLOCK_RIGHTS.items() if since <= version))
    if version < 1 or (ruleset := system.syscall(LANDLOCK_CREATE_RULESET, ctypes.byref(handled), 8, 0)) < 0:
        return
    failed = 0
    for folder in filter(Path.is_dir, readable):
        fd = os.open(folder, os.O_PATH)
        beneath = LANDLOCK_READ.to_bytes(8, sys.byteorder) + fd.to_bytes(4, sys.byteorder)
        failed |= system.syscall(LANDLOCK_ADD_RULE, ruleset, 1, beneath, 0)
        os.close(fd)
    if failed or system.syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0):
        print("Landlock refuses to confine the compiler: it has its capabilities, and all files", file=sys.stderr)
    os.close(ruleset)


def header_folders(root: Path, multiarch: str) -> list[Path]:
    """Where the system's headers are. Debian 13 has those of asm/ elsewhere, and links to them."""
    return [root, *((root / part / "asm/types.h").resolve().parent for part in ("", multiarch))]


def load(request: dict[str, Any]) -> tuple[dict[str, Any], list[int], Any]:
    """Returns (reply, descriptors, module); the module keeps the descriptors open until they are sent."""
    folder = Path(request["source"])
    os.environ["BCC_KERNEL_SOURCE"] = str(folder / "stubs")
    try:
        import bcc

        libbpf = ctypes.CDLL("libbpf.so.1")
    except (ImportError, OSError) as error:  # OSError: the module is there, libbcc.so or libbpf.so is not
        return {"error": str(error), "kind": "no-bcc"}, [], None
    if not getattr(bcc, "__file__", None):  # an empty folder, left over from a package that is gone, is importable
        return {"error": "the module bcc is an empty folder", "kind": "no-bcc"}, [], None
    if not hasattr(bcc, "BPF"):
        return {"error": str(getattr(bcc, "__file__", "")), "kind": "wrong-bcc"}, [], None

    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    # What the compiler includes, how many CPUs there are, and what Python may still import.
    folders = [folder, *header_folders(Path("/usr/include"), multiarch), Path("/sys/devices/system/cpu")]
    confine([*folders, *map(Path, filter(None, sys.path))])
    flags = ["-I/usr/include", f"-I/usr/include/{multiarch}", "-Wno-macro-redefined", "-Wall", "-Werror=implicit"]
    # No debug information: BCC 0.29 and later crash in libbpf with -gline-tables-only, and -g takes a tenth longer.
    flags += ["-g0"]
    # BCC optimizes what clang hands on, whatever that did before. Left to BCC alone it takes 0.3 s less, and packets no
    # longer; but what only clang's own passes understand, as __builtin_expect(), is in the way then.
    flags += ["-Os", "-Xclang", "-disable-llvm-passes"]
    # Here, where no command line shows it; positive, or the compiler wants to be told its type.
    own = {name: getattr(bytecode, name) for name in ("DIRECTION", "DIRECT", "RARE")}
    own["HASH_KEY"] = secrets.randbits(63) | 1
    flags += [f"-D{name}={value}" for name, value in (request["defines"] | own).items()]
    try:
        module = bcc.BPF(text=flatten(folder, "epping.bpf.c", set()), cflags=flags)
    except Exception as error:
        return {"error": str(error), "kind": "compile"}, [], None
    addresses = [module[table].map_fd for table in DIRECT_TABLES]
    code = compiled(bcc, module)
    codes = {name: bytecode.linked(code, direction, addresses) for name, direction in PROGRAMS.items()}
    began = time.monotonic()
    try:
        # The verifier takes a third of a second for each, and a CPU of its own.
        with ThreadPoolExecutor() as pool:
            descriptors = list(pool.map(lambda name: load_program(bcc, libbpf, name, codes[name]), PROGRAMS))
    except Exception as error:
        return {"error": str(error), "kind": "load"}, [], None

    verifier_s = time.monotonic() - began
    maps = []
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
    version = getattr(bcc, "__version__", "unknown")
    reply = {"programs": list(PROGRAMS), "maps": maps, "bcc": version, "verifier_s": verifier_s}
    return reply, descriptors, module


def main() -> None:
    """Answers one request. Dies with the thread that asked: nobody else wants the answer."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    channel = socket.socket(fileno=int(sys.argv[1]))
    reply, descriptors, _module = load(json.loads(sys.argv[2]))
    socket.send_fds(channel, [json.dumps(reply).encode()], descriptors)
    sys.stderr.flush()
    os._exit(0)  # the agent waits for our end, and LLVM would tidy up for 20 ms


if __name__ == "__main__":
    main()
