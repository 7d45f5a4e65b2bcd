#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command as root in a Debian 13 container, in this checkout. The container may load BPF programs.
#
#     .github/debian.sh COMMAND [ARGUMENT...]
#
# The Makefile installs Debian packages, and Ubuntu has no separate package bpftool. So the workflows run `make` in a
# Debian container, on the kernel of the runner. The tests need Linux 6.6 or newer with BTF. The GitHub-hosted runner
# ubuntu-24.04 had Linux 6.14 in March 2026.
#
#   --privileged            the tests use bpf(2), network namespaces and mounts; one test sets the clock
#   --network host, /sys    /sys holds BTF and lists the interfaces of the host's network namespace
#   --cgroupns host         tests that boot systemd mount cgroup2 and need the whole hierarchy
#   /var/tmp, /root/.cache  for `make distrotest`; an overlay's upper directory cannot be on the container's overlay
#   GIT_CONFIG_*            the runner's user owns the checkout, and git refuses a tree of another user, even for root
#   GOTOOLCHAIN             Debian's Go downloads the newer version of Go that tests/integration/go.mod requires
#
# The kernel loads modules on demand from the runner's /lib/modules. The package linux-modules-extra adds modules that
# the tests need, such as ifb.
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
