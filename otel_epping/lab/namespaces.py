# SPDX-License-Identifier: Apache-2.0
"""Creates network namespaces without a name.

`ip netns add` binds a namespace to a file, which remains after a crash. Here a namespace is only a file descriptor: a
short-lived thread moves into a new namespace (`unshare(2)`), and this process keeps a descriptor of the namespace. The
kernel removes the namespace and its interfaces after the last descriptor is closed and the last process in the
namespace has ended. Each child process is started with a parent-death signal (PR_SET_PDEATHSIG, `prctl(2)`), so the
kernel kills the child processes when this process ends, even after SIGKILL.

In Linux each thread of a process can be in a different network namespace. `Namespace.entered()` moves only the calling
thread. A socket stays in the namespace in which it was opened. So one thread may use sockets of several namespaces.
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
# os.setns and os.unshare need Python 3.12 or later, so this module calls the functions of libc.
_libc = ctypes.CDLL(None, use_errno=True)


class LabError(RuntimeError):
    """The lab could not be built. The message has the cause and, for known causes, the cure."""


def start(argv: Sequence[str], **popen_options: Any) -> subprocess.Popen[str]:
    """Starts a child process in text mode. The kernel kills the child with SIGKILL when the calling *thread* ends.

    Call this function from a thread that runs longer than the child process. The child process has its own session, so
    Ctrl-C interrupts only the calling process. The calling process can then stop its child processes in order.
    `popen_options` are passed to `subprocess.Popen`. Raises LabError if `setpriv` is missing. If the program of `argv`
    is missing, the exit status is 127.
    """
    try:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *argv], text=True, start_new_session=True, **popen_options
        )
    except FileNotFoundError as error:
        raise LabError(f"cannot run {error.filename!r}: install util-linux") from error


class Namespace:
    """A new network namespace with its loopback interface up; a context manager that closes the namespace.

    IPv6 duplicate address detection and router advertisements are off, so that addresses work at once. `name` is for
    error messages. Raises LabError if this process does not have the privilege to create a namespace.
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
        """Kills all running processes that popen() has started, and closes the namespace. May be called twice."""
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
        """A path to the namespace, for `ip link ... netns PATH`; valid until close()."""
        return f"/proc/{os.getpid()}/fd/{self._fd}"

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Moves the calling thread into the namespace for the body of a `with` statement.

        Sockets, processes and threads that are created in the body stay in the namespace. Make sure that no library
        starts long-lived threads in the body.
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
        """Runs a command in the namespace, and returns its standard output.

        If the command fails, raises LabError with the standard error output.
        """
        process = self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._processes.remove(process)
        with process:
            stdout, stderr = process.communicate(stdin)
        if process.returncode:
            command = " ".join(argv)
            raise LabError(f"in namespace {self.name}: `{command}` failed ({process.returncode}): {stderr.strip()}")
        return stdout

    def ip(self, *commands: str) -> str:
        """Runs `ip` commands in the namespace, all in one process: `ns.ip("link set lo up", "address add ...")`."""
        return self.run("ip", "-batch", "-", stdin="\n".join(commands))

    def sysctl(self, key: str, value: int | str) -> None:
        """Sets a sysctl of the namespace, such as `net.ipv4.tcp_timestamps`.

        Raises LabError if the sysctl cannot be set.
        """
        try:
            # /proc/sys/net has the settings of the calling thread's namespace.
            with self.entered():
                Path("/proc/sys", key.replace(".", "/")).write_text(str(value), encoding="utf-8")
        except OSError as error:
            raise LabError(f"in namespace {self.name}: cannot set {key}={value}: {error.strerror}") from error

    def popen(self, argv: Sequence[str], **popen_options: Any) -> subprocess.Popen[str]:
        """Starts a process in the namespace.

        The process is killed when the calling thread ends or close() is called.
        """
        with self.entered():
            process = start(argv, **popen_options)
        self._processes.append(process)
        return process


def _new_namespace() -> int:
    """Creates a network namespace, and returns a file descriptor that keeps the namespace alive."""
    result: list[int | LabError] = []

    def create() -> None:
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "create a network namespace")
            result.append(os.open(_THREAD_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC))
        except LabError as error:
            result.append(error)

    # A thread cannot undo unshare(2), so a separate thread calls unshare(2) and then ends.
    thread = threading.Thread(target=create)
    thread.start()
    thread.join()
    if isinstance(result[0], LabError):
        raise result[0]
    return result[0]


def _check(result: int, action: str) -> None:
    if result != 0:
        reason = os.strerror(ctypes.get_errno())
        raise LabError(f"cannot {action}: {reason} (the lab needs root: run it with sudo)")
