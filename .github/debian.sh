#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command as root in a container of Debian 13, in this checkout, with the right to load BPF programs.
#
#     .github/debian.sh COMMAND [ARGUMENT...]
#
# The Makefile installs Debian packages, and Ubuntu has no package `bpftool`. So the workflows run `make` in Debian, on the
# kernel of the runner. A GitHub-hosted runner `ubuntu-24.04` has Linux 6.14 with BTF (March 2026); the tests need 6.6.
#
#   --privileged            bpf(2), network namespaces, mounts; one test sets the clock
#   --network host, /sys    /sys has BTF and the interfaces, which must be those of the container's network namespace
#   /var/tmp, /root/.cache  `make distrotest` mounts overlays, whose upper folder cannot be on the container's own overlay
#   GIT_CONFIG_*            the checkout belongs to the runner's user, and git as root refuses such a tree otherwise
#   GOTOOLCHAIN             the Go of Debian 13 fetches the version that tests/integration/go.mod asks for
#
# linux-modules-extra has modules that the kernel loads on demand from the runner's /lib/modules, such as ifb.
set -euo pipefail
sudo apt-get -q update
sudo apt-get -q install --yes --no-install-recommends "linux-modules-extra-$(uname -r)"
# shellcheck disable=SC2016 # the inner shell expands "$@"
exec sudo docker run --rm --privileged --network host --cgroupns host \
    --volume "$PWD:/checkout" --workdir /checkout \
    --volume /sys:/sys --volume /var/tmp:/var/tmp --volume /root/.cache:/root/.cache \
    --env CI=true --env GOTOOLCHAIN=auto \
    --env GIT_CONFIG_COUNT=1 --env GIT_CONFIG_KEY_0=safe.directory --env GIT_CONFIG_VALUE_0=/checkout \
    debian:13 bash -c '
        set -e
        export DEBIAN_FRONTEND=noninteractive
        apt-get -q update
        apt-get -q install --yes --no-install-recommends ca-certificates git golang-go make
        exec "$@"' bash "$@"
