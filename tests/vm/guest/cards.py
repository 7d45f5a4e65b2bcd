# SPDX-License-Identifier: Apache-2.0
"""Tests emulated network cards, with a VLAN on each card. Checks the RTTs, and compares the number of packets with the
counters of the card. Each check runs with and without large segments.

QEMU connects the two cards of a kind by an emulated wire, which transports single frames but no large segments.
Therefore the virtio cards have no segmentation offload in these tests. The e1000e cards have segmentation offload.
"""

import json
import subprocess
import time
from pathlib import Path

from otel_epping.lab.namespaces import Namespace
from tests.vm.guest import traffic
from tests.vm.guest.agent import Agent, judged
from tests.vm.guest.network import Pair
from tests.vm.guest.results import NotTriedError, Results

_DRIVERS = ("e1000e", "virtio_net")
_OFF = "tso off gso off gro off"
_BULK = 2_000_000
_SHOWN = ("tcp-segmentation-offload", "generic-segmentation-offload", "generic-receive-offload", "rx-vlan-offload")


def check(results: Results) -> None:
    """Test each kind of card."""
    for number, driver in enumerate(_DRIVERS, 50):
        with results.attempt(driver):
            _card(results, driver, number)


def _card(results: Results, driver: str, number: int) -> None:
    subprocess.run(["modprobe", driver], check=True)
    time.sleep(3)
    devices = sorted(path.name for path in Path("/sys/class/net").iterdir() if _driver(path) == driver)
    if len(devices) != 2:
        raise NotTriedError(f"there are not two cards of {driver}: {devices}")
    pair = Pair()
    near, far = f"near{number}", f"far{number}"
    for device, name, namespace in ((devices[0], near, pair.near), (devices[1], far, pair.far)):
        subprocess.run(["ip", "link", "set", device, "down"], check=True)
        subprocess.run(["ip", "link", "set", device, "name", name, "netns", namespace.path], check=True)
    for namespace, device, host in ((pair.near, near, 1), (pair.far, far, 2)):
        namespace.ip(
            f"address add 10.{number}.0.{host}/24 dev {device}",
            f"link set {device} up",
            f"link add link {device} name vlan{number} type vlan id 30",
            f"address add 10.{number + 100}.0.{host}/24 dev vlan{number}",
            f"link set vlan{number} up",
        )
    pair.delay(far)
    traffic.Server(pair.far)
    time.sleep(5)
    for large in (True, False):
        name = f"{driver}, {'large segments' if large else 'no large segments'}"
        if not large:
            for namespace, device in ((pair.near, near), (pair.far, far)):
                namespace.run("ethtool", "-K", device, *_OFF.split())
            time.sleep(5)  # after a reset, a card needs some time until it is ready
        with results.attempt(name):
            _judge(results, name, pair, near, number)


def _judge(results: Results, name: str, pair: Pair, near: str, number: int) -> None:
    agent = Agent(f"cards {name}", pair.near, [near, f"vlan{number}"])
    before = _counters(pair.near, near)
    addresses = {near: f"10.{number}.0", f"vlan{number}": f"10.{number + 100}.0"}
    clocks = {
        device: traffic.talk(pair.near, [(f"{network}.2", "")], connections=2, turns=8, bulk=_BULK)[f"{network}.2"]
        for device, network in addresses.items()
    }
    time.sleep(2)
    after = _counters(pair.near, near)
    code = agent.stop()
    rtts = agent.rtts()
    for device, network in addresses.items():
        if clocks[device].error:
            raise RuntimeError(clocks[device].error)
        method, exchange_ms = "tcp_timestamp", clocks[device].exchange_ms
        ok, text = judged(rtts.get((device, f"{network}.0/24", method)), method, exchange_ms)
        seen, _ = judged(rtts.get((near, f"{network}.0/24", method)), method, exchange_ms)
        results.tell(f"{name}: {device}", ok and seen, f"{text}; on the card {'as well' if seen else 'NOT'}")
    counted = [0, 0]
    for point in agent.exported("epping.interface.packet.count"):
        if point["attributes"]["network.interface.name"] == near:
            counted[point["attributes"]["network.io.direction"] == "transmit"] += point["value"]
    # The agent's counters and the card's counters are not read at the same time. A few other packets, such as neighbour
    # discovery, may pass between the two readings.
    card = [later - earlier for earlier, later in zip(before, after, strict=True)]
    ok = code == 0 and all(abs(ours - theirs) <= 0.01 * theirs for ours, theirs in zip(counted, card, strict=True))
    features = [line.strip() for line in pair.near.run("ethtool", "-k", near).splitlines()]
    shown = ", ".join(line for line in features if line.startswith(_SHOWN))
    results.tell(f"{name}: packets", ok, f"received, transmitted: {counted}, by the card {card}; {shown}")


def _counters(namespace: Namespace, device: str) -> tuple[int, int]:
    statistics = json.loads(namespace.run("ip", "-s", "-j", "link", "show", device))[0]["stats64"]
    return int(statistics["rx"]["packets"]), int(statistics["tx"]["packets"])


def _driver(device: Path) -> str:
    link = device / "device/driver"
    return link.resolve().name if link.exists() else ""
