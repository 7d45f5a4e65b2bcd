#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a command as root in a container of Debian 13, in this checkout, with the right to load BPF programs.
#
#     .github/debian.sh COMMAND [ARGUMENT...]
#
# The Makefile installs Debian packages, and Ubuntu has no package of its own named bpftool. So the workflows run `make`
# in Debian, on the kernel of the runner. The tests need Linux 6.6 with BTF; the GitHub-hosted runner ubuntu-24.04 had
# Linux 6.14 in March 2026.
#
#   --privileged            for bpf(2), network namespaces and mounts; one test also sets the clock
#   --network host, /sys    /sys holds BTF and lists the interfaces of the host's network namespace
#   --cgroupns host         tests that boot systemd mount cgroup2 and expect the whole hierarchy
#   /var/tmp, /root/.cache  for `make distrotest`: the upper folder of an overlay cannot be on the container's overlay
#   GIT_CONFIG_*            the runner's user owns the checkout, and git refuses another user's tree, even as root
#   GOTOOLCHAIN             Debian's Go downloads the newer version that tests/integration/go.mod asks for
#
# The kernel loads modules on demand from the runner's /lib/modules. linux-modules-extra adds those that tests need,
# such as ifb.
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
