#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prints the path of the binary of the official OpenTelemetry Collector, of Prometheus or of promtool. Builds the binary
# from source if it is missing.
#
#     build.sh otelcol|prometheus|promtool
#
# The versions are pinned. collector.yaml has the versions of the Collector and its components, and go.mod has the
# versions of the Collector's builder and of Prometheus, which includes promtool. The three binaries have 151 MB together.
# The binaries are kept outside of the tree, in ~/.cache/otel-epping/NAME-VERSION, so later calls take no time. The first
# build takes 8 minutes of CPU time, and Go keeps 4 GB of files in its caches (`go clean -cache -modcache` deletes the
# files).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache="${XDG_CACHE_HOME:-$HOME/.cache}/otel-epping"
name=${1:-}

case $name in
    otelcol)
        version=v$(awk '$1 == "version:" { print $2 }' "$here/collector.yaml")
        pins=("$here/collector.yaml")
        ;;
    prometheus | promtool)
        version=$(awk '$1 == "github.com/prometheus/prometheus" { print $2 }' "$here/go.mod")
        pins=("$here/go.mod" "$here/go.sum")
        ;;
    *)
        echo "usage: $0 otelcol|prometheus|promtool" >&2
        exit 2
        ;;
esac

home="$cache/$name-$version"
mkdir -p "$home"
exec 9>"$home/lock" # if several calls run at the same time, only one of them builds the program
flock 9
if [ -x "$home/$name" ] && cat "${pins[@]}" | cmp -s - "$home/pins"; then
    echo "$home/$name"
    exit
fi

export PATH="$PATH:/usr/local/go/bin" CGO_ENABLED=0 # as in the official builds; without cgo, no C compiler is needed
export GOFLAGS="${GOFLAGS:-} -buildvcs=false"       # git may refuse a tree that belongs to another user
command -v go >/dev/null || {
    echo "$name needs Go $(awk '$1 == "go" { print $2 }' "$here/go.mod") or later, which is not installed" >&2
    exit 1
}
work="$home/build"
rm -rf "$work" # a build that was killed may have left this folder
mkdir "$work"
trap 'rm -rf "$work"' EXIT

compile() { # PACKAGE [FLAG...]: compiles a package of the module in the working directory, and shows the progress
    local package=$1 all
    shift
    all=$(go list -deps "$@" "$package" | wc -l)
    go build -v -trimpath -o "$work/$name" "$@" "$package" 2>&1 |
        awk -v all="$all" '/[ #]/ { print; fflush(); next }
            ++n % 50 == 0 { print "  " n " of at most " all " packages"; fflush() }'
}

{
    echo "building $name $version from source; this takes minutes, and is needed only once"
    began=$SECONDS
    if [ "$name" != otelcol ]; then
        cd "$here"
        # Most of the code of Prometheus finds scrape targets in many kinds of clouds. The tests only push data, so the
        # build omits this code.
        compile "github.com/prometheus/prometheus/cmd/$name" -tags=remove_all_sd \
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
    echo "building $name $version took $((SECONDS - began)) s and $(du -sh "$home/$name" | cut -f1), in $home"
} >&2
echo "$home/$name"
