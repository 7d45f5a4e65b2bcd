# SPDX-License-Identifier: Apache-2.0
"""A test network with known RTTs on one machine, for `otel-epping demo` and the tests.

Measured RTTs can be verified only if the true RTTs are known. In the lab, two clients, a router and servers run in
separate network namespaces, each with a real TCP stack. The link between router and servers delays each packet by half
of the RTT that is configured for the packet's server subnet.

    namespaces          network namespaces without a name, which the kernel removes after their last use
    delayed_link        the link that delays packets, and can limit the rate of a subnet
    topology            `Lab`: client, legacy client, router and servers, with links, addresses and routes
    traffic             a server program and client programs, which exchange requests and replies
    otlp_sink           an OTLP receiver that keeps all requests, and can be set to fail
    collector_process   a third-party OpenTelemetry collector, between an exporter and the sink
    rotel, otelcol      the two supported collectors
    collectors          chooses the installed collector
    demo                `otel-epping demo`

The lab needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN), /dev/net/tun, and the programs `ip` (iproute2) and `setpriv`
(util-linux). No namespace, interface or process of the lab outlives the process that created the lab, even after
SIGKILL.

This file imports nothing, so that the programs of the package (`delayed_link`, `traffic`) start quickly.
"""
