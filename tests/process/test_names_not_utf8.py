# SPDX-License-Identifier: Apache-2.0
"""Tests interface names, host names and resources that are not UTF-8. Each name is escaped, and has its own series."""

import os
from collections.abc import Callable, Iterator

import pytest

from otel_epping.kernel.attach.interface_monitor import present
from otel_epping.kernel.attach.interfaces import find
from otel_epping.kernel.netlink import links
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics, metric_table, semconv
from tests.support.command import Agent, epping, said
from tests.support.patience import PATIENCE_S
from tests.support.unprivileged import AGENT

pytestmark = pytest.mark.parallel


# In a name, the kernel accepts all bytes except white space, '/' and ':'.
NAMES = {b"caf\xe9": r"caf\xe9", b"caf\xe8": r"caf\xe8", rb"caf\xe9": r"caf\x5cxe9", b"caf\x1b[m": r"caf\x1b[m"}


@pytest.fixture(scope="module")
def host() -> Iterator[Namespace]:
    """A host whose interfaces have the tested names. Each end of each veth pair has one of the names.

    All interfaces are up.
    """
    with Namespace("names") as namespace:
        names = [os.fsdecode(name) for name in [*NAMES, "café".encode(), b"plain0"]]
        for one, other in zip(names[::2], names[1::2], strict=True):
            namespace.run("ip", "link", "add", one, "type", "veth", "peer", "name", other)
        for name in names:
            namespace.run("ip", "link", "set", name, "up")
        yield namespace


def test_interfaces_are_found_by_their_escaped_names(host: Namespace) -> None:
    with host.entered():
        assert {link.name for link in links.links()} == {*NAMES.values(), "café", "plain0", "lo"}
        for text in (*NAMES.values(), "café"):
            assert find(text).name == text
            assert find(text).ifindex == next(link.ifindex for link in links.links() if link.name == text)


def test_patterns_match_characters_and_single_bytes(host: Namespace) -> None:
    with host.entered():
        assert set(present(["caf?"])) == {r"caf\xe9", r"caf\xe8", "café"}
        assert present([r"caf\xe9*"]) == [r"caf\xe9"]
        assert present([r"/^caf\xe9$/"]) == [r"caf\xe9"]
        assert present(["/^caf\\x1b/"]) == [r"caf\x1b[m"]
        assert present([r"/^caf\\xe9$/"]) == [r"caf\x5cxe9"]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_each_interface_has_its_own_series(host: Namespace, start: Callable[..., Agent], protocol: str) -> None:
    """Interfaces are selected in three ways: by the name in the kernel, by the escaped name, and by a pattern."""
    with Sink(namespace=host) as sink:
        endpoint = sink.grpc_endpoint if protocol == "grpc" else sink.http_endpoint.removesuffix("/v1/metrics")
        agent = start(
            "-i", os.fsdecode(b"caf\xe9"), "-i", r"caf\xe8", "-i", "/^caf/", "-i", "plain*", "--interval", "100ms",
            namespace=host,
            OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
            OTEL_SERVICE_NAME=os.fsdecode(b"caf\xe9"),
            OTEL_RESOURCE_ATTRIBUTES=os.fsdecode(b"site=caf\xe8"),
        )  # fmt: skip
        metric = metric_table.INTERFACE_ATTACHED.name
        sink.wait_for(lambda received: len(received.points(metric)) >= 6, PATIENCE_S)
        points = sink.points(metric)
        assert {point.attributes[semconv.INTERFACE]: point.point.as_int for point in points} == dict.fromkeys(
            [*NAMES.values(), "café", "plain0"], 1
        )
        assert points[0].resource["service.name"] == r"caf\xe9"
        assert points[0].resource["site"] == r"caf\xe8"
        assert agent.stop() == 0
    log = agent.log.read_text()
    assert "ERROR" not in log
    assert r"caf\x1b[m" in log


def test_an_unknown_name_is_reported_in_one_line(host: Namespace) -> None:
    words = said(epping(host, "run", "-i", os.fsdecode(b"caf\xe7\n\x1b")))
    assert words.startswith(r"there is no interface 'caf\xe7\x0a\x1b': choose one of ")
    assert r"caf\x1b[m, caf\x5cxe9, caf\xe8, caf\xe9, café, lo, plain0" in words


def test_a_host_name_that_is_not_utf_8(ns: Namespace, start: Callable[..., Agent]) -> None:
    rename = 'printf "caf\\351" > /proc/sys/kernel/hostname; exec "$0" "$@"'
    with Sink(namespace=ns) as sink:
        command = ["unshare", "--uts", "sh", "-c", rename, *AGENT]
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint}
        agent = start("-i", "lo", "--interval", "100ms", command=command, **settings)
        sink.wait_for(lambda received: received.points(agent_metrics.SUBNET_LIMIT.name), PATIENCE_S)
        assert sink.points(agent_metrics.SUBNET_LIMIT.name)[0].resource["host.name"] == r"caf\xe9"
        assert agent.stop() == 0
