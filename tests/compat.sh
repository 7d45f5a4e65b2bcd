#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the export tests with the oldest and the newest OpenTelemetry release that pyproject.toml allows.
#
#     compat.sh [INTERPRETER]
#
# These tests use the private members of the SDK and its exporters that otel_epping/otel/private.py uses. Tests that
# load the kernel program need root; without root, only the tests marked `unit` run. Each release has a virtual
# environment in ~/.cache/otel-epping, which is kept. Each run checks for a newer release.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/otel-epping"
interpreter="${1:-/usr/bin/python3}"
tests=(
    tests/otel/otlp/test_transport.py
    tests/otel/otlp/test_tls.py
    tests/otel/test_attach.py
    tests/otel/test_exporter.py
    tests/otel/test_pipeline.py
    tests/test_instrumentor.py::test_an_application_exports_the_rtts_of_its_network
)

# The packages of [dev] that these tests and tests/conftest.py import. The extra `demo` installs rotel, a collector.
needed=(dpkt hypothesis packaging pytest pytest-timeout scapy)

requirements() { # prints the requirements on OpenTelemetry packages, as in: opentelemetry-sdk>=1.45.1,<1.46
    sed -nE 's/^ *"(opentelemetry-[^" ;]*).*/\1/p' "$root/pyproject.toml"
}

set_up() { # oldest|newest HOME: makes a virtual environment with this tree
    local pins packages install=("$2/bin/python" -m pip install --quiet --disable-pip-version-check)
    mapfile -t packages < <(requirements)
    pins=$("$interpreter" -VV; echo "$root"; cat "$root/pyproject.toml" "$root/constraints.txt" "${BASH_SOURCE[0]}")
    if [ "$pins" != "$(cat "$2/pins" 2>/dev/null)" ]; then
        rm -rf "$2"
        "$interpreter" -m venv "$2"
        grep -v '^opentelemetry-' "$root/constraints.txt" >"$2/constraints.txt"
        if [ "$1" = oldest ]; then
            requirements | sed -E 's/>=([^,]*).*/==\1/' >>"$2/constraints.txt"
        fi
        install+=(--constraint "$2/constraints.txt")
        "${install[@]}" hatchling
        "${install[@]}" --no-build-isolation --editable "$root[demo,instrument]" "${packages[@]}" "${needed[@]}"
        echo "$pins" >"$2/pins"
    elif [ "$1" = newest ]; then
        "${install[@]}" --constraint "$2/constraints.txt" --upgrade "${packages[@]}"
    fi
}

selected=()
if [ "$(id -u)" != 0 ]; then
    selected=(-m unit)
fi
mkdir -p "$cache"
failed=0
for release in oldest newest; do
    home="$cache/compat-$release"
    exec 9>"$home.lock" # one run at a time
    flock 9
    set_up "$release" "$home"
    version=$("$home/bin/python" -c 'from importlib.metadata import version; print(version("opentelemetry-sdk"))')
    echo "OpenTelemetry $version, the $release release allowed:"
    (cd "$root" && "$home/bin/python" -m pytest -q "${selected[@]}" "${tests[@]}" -p no:cacheprovider) || failed=1
done
exit "$failed"
