# SPDX-License-Identifier: Apache-2.0
"""The server and client programs for the lab's traffic: `python -m otel_epping.lab.traffic serve|talk|download`.

`serve` answers requests on TCP port 5000 of all IPv4 and IPv6 addresses. A request has 100 to 1400 bytes. A request
begins with two numbers: the length of the request in two bytes, and the length of the answer in four bytes. In both
directions, each write() call of at most 1400 bytes sends one TCP segment, because asyncio sets TCP_NODELAY.

`talk` keeps some connections to each given address, like the users of a web service. On each connection, `talk` sends a
request, waits for the whole answer, pauses, and repeats these steps. The answers have 100 to 1400 bytes. If a
connection breaks, `talk` counts an error and opens the connection again. `talk` ends after `--duration` or on SIGTERM.
Then `talk` prints a line of JSON: the number of answered requests per address, and the number of errors per address and
kind.

`download` requests one long answer, and ends when the answer is complete.
"""

import argparse
import asyncio
import json
import random
import signal
import struct
import subprocess
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass, field

from otel_epping.lab.namespaces import LabError

__all__ = ["PORT", "Totals", "finish", "request", "result"]

PORT = 5000
_HEADER = struct.Struct("!HI")  # size of the request in bytes, size of the answer in bytes
_SMALLEST, _LARGEST = 100, 1400


@dataclass(frozen=True)
class Totals:
    """The totals of `talk`: the number of answered requests per address, and the number of errors.

    A key of `errors` has the form "address: kind of error".
    """

    requests: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)


def finish(talking: subprocess.Popen[str]) -> Totals:
    """Ends a `talk` process, and returns its totals. Raises LabError if the process failed."""
    talking.terminate()
    return result(talking)


def result(talking: subprocess.Popen[str]) -> Totals:
    """Waits for the end of a `talk` process that has a duration.

    Returns the totals of the process. Raises LabError if the process failed.
    """
    stdout, _ = talking.communicate()
    if talking.returncode:
        raise LabError(f"the lab's client program ended with status {talking.returncode}")
    totals = json.loads(stdout)
    return Totals(Counter(totals["requests"]), Counter(totals["errors"]))


def request(request_size: int, answer_size: int) -> bytes:
    """Returns a request of `request_size` bytes (at least 6) for an answer of `answer_size` bytes."""
    return _HEADER.pack(request_size, answer_size).ljust(request_size, b"\0")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):  # a client may disconnect at any time
        while True:
            request_size, answer_size = _HEADER.unpack(await reader.readexactly(_HEADER.size))
            await reader.readexactly(request_size - _HEADER.size)
            writer.write(bytes(answer_size))
            await writer.drain()


async def _serve() -> None:
    server = await asyncio.start_server(_answer, host=None, port=PORT)
    print("listening", flush=True)
    async with server:
        await server.serve_forever()


async def _converse(address: str, pause_s: tuple[float, float], totals: Totals) -> None:
    """Sends requests over one connection until the connection breaks."""
    reader, writer = await asyncio.open_connection(address, PORT)
    with closing(writer):
        while True:
            request_size, answer_size = random.randint(_SMALLEST, _LARGEST), random.randint(_SMALLEST, _LARGEST)
            writer.write(request(request_size, answer_size))
            await reader.readexactly(answer_size)
            totals.requests[address] += 1
            await asyncio.sleep(random.uniform(*pause_s))


async def _keep_conversing(address: str, pause_s: tuple[float, float], totals: Totals) -> None:
    await asyncio.sleep(random.uniform(0, pause_s[1]))  # so that the connections do not start at the same time
    while True:
        try:
            await _converse(address, pause_s, totals)
        except (OSError, asyncio.IncompleteReadError) as error:
            totals.errors[f"{address}: {type(error).__name__}"] += 1
            await asyncio.sleep(pause_s[1])


async def _talk(addresses: list[str], connections: int, pause_s: tuple[float, float], duration_s: float | None) -> None:
    totals = Totals()
    talking = asyncio.gather(
        *(_keep_conversing(address, pause_s, totals) for address in addresses for _ in range(connections))
    )
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, talking.cancel)
    # TimeoutError is raised after the duration, and CancelledError on SIGTERM or SIGINT; both are normal ends.
    with suppress(asyncio.TimeoutError, asyncio.CancelledError):
        await asyncio.wait_for(talking, duration_s)
    print(json.dumps(vars(totals)), flush=True)


async def _download(address: str, octets: int) -> None:
    """Sends a request for an answer of `octets` bytes, and reads the answer."""
    reader, writer = await asyncio.open_connection(address, PORT)
    with closing(writer):
        writer.write(request(_SMALLEST, octets))
        await reader.readexactly(octets)


def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m otel_epping.lab.traffic", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("serve", help=f"answer requests on TCP port {PORT} of all addresses")
    talk = commands.add_parser("talk", help="send requests to each address and print the totals as JSON")
    talk.add_argument("--connections", type=int, default=3, help="connections per address (default 3)")
    talk.add_argument(
        "--pause",
        type=float,
        nargs=2,
        default=(0.05, 0.1),
        metavar=("MIN", "MAX"),
        help="pause between requests, in seconds",
    )
    talk.add_argument(
        "--duration", type=float, metavar="SECONDS", help="how long to send requests (default: until SIGTERM)"
    )
    talk.add_argument("addresses", nargs="+", metavar="ADDRESS")
    download = commands.add_parser("download", help="request one long answer from an address")
    download.add_argument("address", metavar="ADDRESS")
    download.add_argument("octets", type=int, metavar="BYTES")
    arguments = parser.parse_args()
    if arguments.command == "serve":
        asyncio.run(_serve())
    elif arguments.command == "download":
        asyncio.run(_download(arguments.address, arguments.octets))
    else:
        asyncio.run(_talk(arguments.addresses, arguments.connections, tuple(arguments.pause), arguments.duration))


if __name__ == "__main__":
    _main()
