#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests that need neither a kernel nor root on several versions of Python.
#
#     pythons.sh [INTERPRETER...]
#
# Without arguments, the tests run on each supported version that is in PATH (as python3.12) or installed by pyenv.
# Versions that are not found are listed at the end. Each version has a virtual environment in ~/.cache/otel-epping,
# which is kept.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/otel-epping"
versions=(3.10 3.11 3.12 3.13 3.14)

find_python() { # VERSION: prints the path of an interpreter
    local found
    # pyenv may have a command for a version whose interpreter is not installed.
    "python$1" -c 'import sys; print(sys.executable)' 2>/dev/null && return
    found=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 3 -path "*/$1.*/bin/python" 2>/dev/null)
    sort --version-sort <<<"$found" | tail -n 1 | grep .
}

version_of() { # INTERPRETER
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'
}

set_up() { # INTERPRETER HOME: creates the virtual environment if it is missing or outdated
    local pins
    pins=$("$1" -VV; echo "$root"; cat "$root/pyproject.toml" "$root/constraints.txt")
    if [ "$pins" = "$(cat "$2/pins" 2>/dev/null)" ]; then
        return
    fi
    rm -rf "$2"
    "$1" -m venv "$2"
    local install=("$2/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$root/constraints.txt")
    "${install[@]}" hatchling
    "${install[@]}" --no-build-isolation --editable "$root[dev]"
    echo "$pins" >"$2/pins"
}

add_collector() { # HOME: rotel has no wheel for Python 3.14, so the official collector is used instead
    local otelcol
    if ! "$1/bin/python" -c 'import rotel' 2>/dev/null; then
        otelcol=$("$root/tests/integration/build.sh" otelcol)
        ln -sf "$otelcol" "$1/bin/otelcol"
    fi
}

interpreters=("$@")
missing=()
if [ $# = 0 ]; then
    for version in "${versions[@]}"; do
        if found=$(find_python "$version"); then
            interpreters+=("$found")
        else
            missing+=("$version")
        fi
    done
fi

without_privileges=()
if [ "$(id -u)" = 0 ]; then
    without_privileges=(setpriv --inh-caps=-all --bounding-set=-all)
fi
results=()
failed=0
mkdir -p "$cache"
for interpreter in "${interpreters[@]}"; do
    version=$(version_of "$interpreter")
    home="$cache/python-$version"
    echo "Python $version: $interpreter"
    exec 9>"$home.lock" # of two runs at the same time, one waits
    flock 9
    set_up "$interpreter" "$home"
    add_collector "$home"
    if (cd "$root" && "${without_privileges[@]}" "$home/bin/python" -m pytest -q -m unit --hypothesis-profile quick \
        -W error::DeprecationWarning --numprocesses 3 \
        --dist worksteal -p no:cacheprovider); then
        results+=("Python $version: passed")
    else
        results+=("Python $version: FAILED")
        failed=1
    fi
done
printf '%s\n' "${results[@]}"
for version in "${missing[@]}"; do
    echo "Python $version: NOT TESTED, no interpreter was found"
done
exit "$failed"
