# SPDX-License-Identifier: Apache-2.0
"""A small internet on one machine: hosts in network namespaces, joined by a link whose delay we choose.

A tool that measures round-trip times can only be judged against round-trip times that are known. The lab makes them: a
client, a router and servers, each in a network namespace of its own with a real TCP stack, and between router and
servers a link that holds every packet back for half of the delay that its server subnet was given.

    namespaces   a network namespace without a name: it vanishes with the last process that uses it
    link         the link that holds packets back
    topology     `Lab`: client, legacy client, router and servers, wired and addressed
    traffic      a server and a client program that talk to each other over the link
    sink         an OTLP receiver that keeps what it gets, and fails when told to
    forwarder    an OpenTelemetry collector that others wrote, between an exporter and the sink
    rotel, otelcol   the two that there are
    collectors   chooses the one that is installed

Everything here needs root (CAP_NET_ADMIN and CAP_SYS_ADMIN), /dev/net/tun, and the programs `ip` (iproute2) and
`setpriv` (util-linux). Nothing outlives the process that made it, not even when that process is killed.

The package itself imports nothing, so that the programs in it (`link`, `traffic`) start quickly.
"""
