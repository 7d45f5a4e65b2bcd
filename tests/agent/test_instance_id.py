# SPDX-License-Identifier: Apache-2.0
"""Tests `service.instance.id`. A restart does not change the id.

Agents that run at the same time have different ids.
"""

import uuid
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from otel_epping.agent.instance_id import InstanceId
from otel_epping.lab.namespaces import Namespace
from otel_epping.lab.otlp_sink import Sink
from otel_epping.otel import agent_metrics
from tests.support.command import Agent
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.parallel


def test_a_restarted_agent_keeps_its_id(ns: Namespace, start: Callable[..., Agent]) -> None:
    """The id is the same even if the agent was killed by `kill -9`.

    If the user sets an id, the agent uses the user's id.
    """
    seen = []
    for variables in ({}, {}, {"OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=mine"}):
        with Sink(namespace=ns) as sink:
            settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.grpc_endpoint, **variables}
            agent = start("-i", "lo", "--interval", "100ms", **settings)
            sink.wait_for(lambda received: received.points(agent_metrics.SUBNET_LIMIT.name), PATIENCE_S)
            agent.process.kill()
            agent.process.wait()
            seen.append(sink.points(agent_metrics.SUBNET_LIMIT.name)[0].resource["service.instance.id"])
    first, second, configured = seen
    assert first == second
    assert uuid.UUID(str(first)).version == 5
    assert configured == "mine"


def test_agents_differ_by_interfaces_and_network_namespace(ns: Namespace) -> None:
    def fresh(*interfaces: str) -> str:
        with InstanceId(interfaces) as instance:
            return instance.value

    here = fresh("eth0", "eth1")
    assert fresh("eth1", "eth0") == here
    assert fresh("eth0") != here
    with ns.entered():
        assert fresh("eth0", "eth1") != here


def test_further_agents_on_the_same_interfaces_get_random_ids() -> None:
    with ExitStack() as held:
        ids = [held.enter_context(InstanceId(["eth0"])).value for _ in range(3)]
    assert [uuid.UUID(each).version for each in ids] == [5, 4, 4]
    assert len(set(ids)) == 3
