# SPDX-License-Identifier: Apache-2.0
"""Network namespaces without a name.

`ip netns add` pins a namespace to a file, and after a crash the file is still there. Here a namespace is only a file
descriptor: a short-lived thread steps into a new namespace (`unshare(2)`), we keep the descriptor that stands for it,
and the kernel removes the namespace, with all its interfaces, when the last descriptor and the last process in it are
gone. Processes are started with the parent-death signal set (`prctl(2)`, PR_SET_PDEATHSIG), so that killing us, even
with SIGKILL, ends them too.

The namespace is a property of a thread in Linux: `Namespace.entered()` moves only the calling thread. A socket belongs
for life to the namespace it was made in, so a program may open sockets in several of them and use all from one thread.
"""

import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["LabError", "Namespace", "start"]

_CLONE_NEWNET = 0x40000000
_THREAD_NAMESPACE = "/proc/thread-self/ns/net"
# os.setns and os.unshare came with Python 3.12.
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(RuntimeError):
    """The lab could not be built; the message names the cause and, where there is one, the cure."""


def start(argv: Sequence[str], **popen_options: Any) -> subprocess.Popen[str]:
    """Start a process (text mode) that the kernel kills with SIGKILL when the calling *thread* ends.

    So call it from a thread that lives as long as the process shall. The process is in a session of its own: Ctrl-C
    reaches us alone, and we take the others down in order. `popen_options` go to `subprocess.Popen`.
    Raises LabError when `setpriv` is missing; a missing program of `argv` shows as exit status 127.
    """
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv], text=True, start_new_session=True, **popen_options
        )
    except FileNotFoundError as error:
        raise LabError(f"cannot run {error.filename!r}: install util-linux") from error


class Namespace:
    """A network namespace of our own, with loopback up; a context manager that ends it.

    IPv6 duplicate address detection and router advertisements are off, so that an address works at once.
    `name` appears in error messages only. Raises LabError without the privilege to make a namespace.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[str]] = []
        self._fd = _new_namespace()
        for scope in ("all", "default"):
            self.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
            self.sysctl(f"net.ipv6.conf.{scope}.accept_ra", 0)
        self.ip("link set lo up")

    def __enter__(self) -> "Namespace":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes started here that still run, and let go of the namespace. May be called twice."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._processes.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def path(self) -> str:
        """A path that stands for the namespace, for `ip link ... netns PATH`; good as long as this object is open."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Run the body with the calling thread inside the namespace: what it opens or starts there stays there.

        Threads started in the body stay inside too: start none of a library's long-lived ones here by accident.
        """
        origin = os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self._fd, _CLONE_NEWNET), f"enter the namespace {self.name}")
            try:
                yield
            finally:
                _check(_libc.setns(origin, _CLONE_NEWNET), f"leave the namespace {self.name}")
        finally:
            os.close(origin)

    def run(self, *argv: str, stdin: str = "") -> str:
        """Run a command inside to its end and return its stdout. Raises LabError with its stderr when it fails."""
        process = self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._processes.remove(process)
        with process:
            stdout, stderr = process.communicate(stdin)
        if process.returncode:
            command = " ".join(argv)
            raise LabError(f"in namespace {self.name}: `{command}` failed ({process.returncode}): {stderr.strip()}")
        return stdout

    def ip(self, *commands: str) -> str:
        """Run `ip` commands inside, all in one process: `ns.ip("link set lo up", "address add ...")`."""
        return self.run("ip", "-batch", "-", stdin="\n".join(commands))

    def sysctl(self, key: str, value: int | str) -> None:
        """Set a sysctl of the namespace, e.g. `net.ipv4.tcp_timestamps`. Raises LabError if the kernel refuses."""
        try:
            # /proc/sys/net shows the namespace of the thread that looks.
            with self.entered():
                Path("/proc/sys", key.replace(".", "/")).write_text(str(value))
        except OSError as error:
            raise LabError(f"in namespace {self.name}: cannot set {key}={value}: {error.strerror}") from error

    def popen(self, argv: Sequence[str], **popen_options: Any) -> subprocess.Popen[str]:
        """Start a process inside; it dies with the calling thread (see `start`) and with the namespace."""
        with self.entered():
            process = start(argv, **popen_options)
        self._processes.append(process)
        return process


def _new_namespace() -> int:
    """Make a network namespace and return the file descriptor that keeps it alive."""
    made: list[int | LabError] = []

    def make() -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
            made.append(os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC))
        except LabError as error:
            made.append(error)

    # A thread cannot undo an unshare, so one that ends does it for us.
    thread = threading.Thread(target=make)
    thread.start()
    thread.join()
    if isinstance(made[0], LabError):
        raise made[0]
    return made[0]


def _check(result: int, action: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LabError(f"cannot {action}: {reason} (the lab needs root: run it with sudo)")
