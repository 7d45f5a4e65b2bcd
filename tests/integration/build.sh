#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of the official OpenTelemetry Collector, or of Prometheus, and builds it from source if need be.
#
#     build.sh otelcol|prometheus
#
# What is built is pinned here: the Collector and its components in collector.yaml, its builder and Prometheus in go.mod.
# Binaries are kept outside of the tree, in ~/.cache/otel-epping/NAME-VERSION, 94 MB both: no time is needed later. The
# first time it is 6 minutes of CPU, and 4 GB that Go keeps (`go clean -cache -modcache` gives them back).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/otel-epping"
name=${1:-}

case $name in
    otelcol)
        version=v$(awk '$1 == "version:" { print $2 }' "$here/collector.yaml")
        pins=("$here/collector.yaml")
        ;;
    prometheus)
        version=$(awk '$1 == "github.com/prometheus/prometheus" { print $2 }' "$here/go.mod")
        pins=("$here/go.mod" "$here/go.sum")
        ;;
    *)
        echo "usage: $0 otelcol|prometheus" >&2
        exit 2
        ;;
esac

home="$cache/$name-$version"
mkdir -p "$home"
exec 9>"$home/lock" # of two who want it at the same time, one builds it
flock 9
if [ -x "$home/$name" ] && cat "${pins[@]}" | cmp -s - "$home/pins"; then
    echo "$home/$name"
    exit
fi

export PATH="$PATH:/usr/local/go/bin" CGO_ENABLED=0 # as the official ones; and no C compiler is needed
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"       # git may refuse a tree that belongs to another user
command -v go >/dev/null || {
    echo "$name is built with Go $(awk '$1 == "go" { print $2 }' "$here/go.mod") or later, which is not on this machine" >&2
    exit 1
}
work="$home/build"
rm -rf "$work" # of one that was killed
mkdir "$work"
trap 'rm -rf "$work"' EXIT

compile() { # PACKAGE [FLAG...]: compiles it, from the module of the working directory, and shows how far it has come
    local package=$1 all
    shift
    all=$(go list -deps "$@" "$package" | wc -l)
    go build -v -trimpath -o "$work/$name" "$@" "$package" 2>&1 |
        awk -v all="$all" '/[ #]/ { print; fflush(); next }
            ++n % 50 == 0 { print "  " n " of at most " all " packages"; fflush() }'
}

{
    echo "$name $version is built from source, once; it takes minutes"
    began=$SECONDS
    if [ "$name" = prometheus ]; then
        cd "$here"
        # The ways to discover targets, for clouds of all kinds, are most of its code; we only push.
        compile github.com/prometheus/prometheus/cmd/prometheus -tags=remove_all_sd \
            -ldflags="-s -w -X github.com/prometheus/common/version.Version=3.${version#v0.3}"
    else
        (cd "$here" && go build -trimpath -o "$work/builder" go.opentelemetry.io/collector/cmd/builder)
        cd "$work"
        ./builder --config="$here/collector.yaml" --skip-compilation
        cd source
        compile . -ldflags="-s -w"
    fi
    cat "${pins[@]}" >"$work/pins"
    mv "$work/$name" "$work/pins" "$home"
    echo "$name $version took $((SECONDS - began)) s and $(du -sh "$home/$name" | cut -f1) in $home"
} >&2
echo "$home/$name"
