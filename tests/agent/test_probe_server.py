# SPDX-License-Identifier: Apache-2.0
"""Tests the probe server with malicious clients. The server still responds to other clients at once."""

import http.client
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_epping.agent.health import Check
from otel_epping.agent.probe_server import ProbeServer
from tests.support.lab_agent import eventually
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.unit


AT_ONCE_S = 1.0


def ready() -> list[Check]:
    return [Check("attached", True, "watching eth0"), Check("exported", False, "exports fail: <b>")]


def live() -> list[Check]:
    return [Check("read", True, "counts were read 1 s ago")]


def broken() -> list[Check]:
    raise RuntimeError("a check that fails to check")


@pytest.fixture
def probes() -> Iterator[ProbeServer]:
    with ProbeServer("127.0.0.1", 0, {"/livez": live, "/readyz": ready, "/broken": broken}) as probes:
        yield probes


def ask(probes: ProbeServer, path: str, method: str = "GET") -> tuple[int, str]:
    """Send a request, and return the status and the body of the response. The response must arrive within AT_ONCE_S."""
    connection = http.client.HTTPConnection("127.0.0.1", probes.port, timeout=AT_ONCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def connect(probes: ProbeServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", probes.port), timeout=5)


def exchange(probes: ProbeServer, request: bytes) -> bytes:
    """Send a request, and return all bytes that the server sends until the server closes the connection."""
    with connect(probes) as client:
        client.sendall(request)
        answer = b""
        try:
            while received := client.recv(4096):
                answer += received
        except ConnectionResetError:  # the server closed the connection before it had read the whole request
            pass
        return answer


LISTEN = "0A"


def held(probes: ProbeServer) -> int:
    """Return the number of connections that the server has open.

    The kernel may still list a connection that the process has closed. The kernel lists a closed connection without an
    inode, and the function does not count closed connections. The function does not count the descriptors of this
    process, because threads of earlier tests may close descriptors at the same time.
    """
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    fields = [line.split() for line in lines]  # sl, local_address, rem_address, st, ...; the tenth field is the inode
    at_port = [each for each in fields if each[1].endswith(f":{probes.port:04X}") and each[3] != LISTEN]
    return sum(each[9] != "0" for each in at_port)


def test_a_failed_check_is_named_in_a_503_response(probes: ProbeServer) -> None:
    status, body = ask(probes, "/readyz")
    assert status == 503
    assert json.loads(body) == {
        "status": "failed",
        "checks": {
            "attached": {"ok": True, "text": "watching eth0"},
            "exported": {"ok": False, "text": "exports fail: <b>"},
        },
    }
    status, body = ask(probes, "/livez")
    assert (status, json.loads(body)["status"]) == (200, "ok")


def test_verbose_output_has_the_format_of_kubernetes(probes: ProbeServer) -> None:
    expected = "[+]attached ok: watching eth0\n[-]exported failed: exports fail: <b>\nreadyz check failed\n"
    assert ask(probes, "/readyz?verbose") == (503, expected)
    assert ask(probes, "/livez?verbose=1") == (200, "[+]read ok: counts were read 1 s ago\nlivez check passed\n")


def test_other_methods_and_paths(probes: ProbeServer) -> None:
    assert ask(probes, "/livez", "HEAD") == (200, "")
    assert ask(probes, "/metrics") == (404, "not found: use /livez or /readyz or /broken\n")
    assert ask(probes, "/livez", "DELETE")[0] == 501
    assert ask(probes, "/broken")[0] == 500
    assert ask(probes, "/livez")[0] == 200


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /livez\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET //[::1 HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 600 + b"\r\n",
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET /" + b"x" * 100_000,
    ],
)
def test_an_invalid_request_is_answered_or_disconnected_at_once(probes: ProbeServer, request_: bytes) -> None:
    began = time.monotonic()
    answer = exchange(probes, request_)
    assert time.monotonic() - began < AT_ONCE_S
    assert len(answer) < 4096
    assert ask(probes, "/livez")[0] == 200


def test_random_bytes(probes: ProbeServer) -> None:
    random.seed(1)
    for _ in range(300):
        noise = random.randbytes(random.randrange(200)) + b"\r\n\r\n"
        exchange(probes, random.choice([b"", b"GET ", b"GET /livez HTTP/1.1\r\n"]) + noise)
    assert ask(probes, "/livez")[0] == 200
    eventually(lambda: held(probes) == 0, PATIENCE_S, "no connection is left")


def test_many_silent_and_many_slow_clients(probes: ProbeServer) -> None:
    """300 clients connect. The server keeps at most 65 connections, answers probes at once, and disconnects all 300
    clients."""
    threads = set(threading.enumerate())
    clients = [connect(probes) for _ in range(300)]
    try:
        eventually(lambda: 0 < held(probes) <= 65, 1, "the server keeps between 1 and 65 connections")
        for turn in range(20):
            for client in clients[:150]:
                try:
                    client.sendall(b"GET /livez HTTP/1.1\r\n"[turn : turn + 1])
                except OSError:  # the server has closed this connection
                    continue
            assert ask(probes, "/livez")[0] == 200
            assert set(threading.enumerate()) <= threads, "the server starts no threads for clients"
            time.sleep(0.15)  # 20 rounds take more than 2 s, which is the time limit of a connection
        assert held(probes) == 0, "the server has closed all connections"
    finally:
        for client in clients:
            client.close()


def test_clients_that_disconnect_first(probes: ProbeServer) -> None:
    for _ in range(200):
        client = connect(probes)
        client.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends a RST segment
        client.close()
    with connect(probes) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    assert ask(probes, "/livez")[0] == 200
    eventually(lambda: held(probes) == 0, PATIENCE_S, "no connection is left")


def test_the_server_does_not_wake_up_without_requests(probes: ProbeServer) -> None:
    ask(probes, "/livez")
    threads = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    serving = next(thread.native_id for thread in threading.enumerate() if thread.name == "health")
    assert serving in threads

    def switches() -> int:
        status = Path(f"/proc/self/task/{serving}/status").read_text()
        return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])

    before = switches()
    time.sleep(0.3)
    assert switches() <= before + 1


def test_ipv6_and_closing() -> None:
    before = {file.name for file in Path("/proc/self/fd").iterdir()}
    with ProbeServer("::1", 0, {"/livez": live}) as probes:
        idle = socket.create_connection(("::1", probes.port))
        # The response to this later client shows that the server has already accepted the idle client. If the server
        # had not accepted the idle client, closing the server would reset the idle connection.
        connection = http.client.HTTPConnection("::1", probes.port, timeout=AT_ONCE_S)
        connection.request("GET", "/livez")
        assert connection.getresponse().status == 200
        connection.close()
    assert idle.recv(1) == b""
    idle.close()
    assert {file.name for file in Path("/proc/self/fd").iterdir()} <= before
    assert not any(thread.name == "health" for thread in threading.enumerate())
