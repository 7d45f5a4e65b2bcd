# SPDX-License-Identifier: Apache-2.0
"""Writes the last results of `make vmtest` as tables into docs/platforms.md and docs/performance.md.

A table is between two comments, which are kept: `<!-- vmtest: NAME -->` and `<!-- end of NAME -->`.
"""

import re
import sys
from collections.abc import Iterable, Sequence

from tests.vm import store
from tests.vm.cache import VmError
from tests.vm.images import RELEASES, ROOT
from tests.vm.kernels import order
from tests.vm.machine import Result
from tests.vm.plan import PAIR_TESTS

_NOT_TRIED = "not tested"
_PACKAGES = (("libbpfcc", "BCC"), ("libllvm", "LLVM"))
_CARD_KINDS = {"e1000e": "e1000e, and a VLAN on it", "virtio_net": "virtio, and a VLAN on it"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdict(results: Sequence[Result]) -> str:
    """Return the text of a table cell for some results: "ok", the names of the red results, a known limit, or "not
    tested"."""
    red = [str(result["name"]) for result in results if result["ok"] is False]
    if red:
        return f"**red**: {', '.join(red)}".removesuffix(": ")
    if limits := {str(result["limit"]) for result in results if "limit" in result}:
        return f"limit: {'; '.join(sorted(limits))}"
    return "ok" if any(result["ok"] for result in results) else _NOT_TRIED


def kernels(results: Iterable[Result]) -> list[str]:
    """Return the releases of all kernels, the oldest first."""
    return sorted({str(result["release"]) for result in results}, key=lambda release: (order(release), release))


def pairs(results: Sequence[Result]) -> str:
    """The table of kernels and userlands, with the tests that depend on both compiler and kernel."""
    versions = {release: _versions(results, release) for release in RELEASES}
    rows = [
        [release, *(_pair(_of(results, release=release, userland=userland)) for userland in RELEASES)]
        for release in kernels(results)
    ]
    return table(["kernel", *(f"{release}: {versions[release]}" for release in RELEASES)], rows)


def _pair(results: Sequence[Result]) -> str:
    tried = [test for test in PAIR_TESTS if _of(results, test=test)]
    missing = [test for test in PAIR_TESTS if test not in tried]
    machine = [result for result in results if result["test"] == "machine" and result["ok"] is False]
    cell = verdict([*machine, *(result for result in results if result["test"] in PAIR_TESTS)])
    return f"{cell}; without {', '.join(missing)}" if tried and missing else cell


def devices(results: Sequence[Result]) -> str:
    """The table of interfaces on each kernel. The last rows are emulated network cards."""
    found = [result for result in results if result["test"] == "devices"]
    # The rows have the same order as the tests. Interfaces that no kernel could create come last.
    judged = [result for result in found if not result["name"].endswith(": made")]
    known = list(dict.fromkeys(str(result["kind"]) for result in [*judged, *found] if "kind" in result))
    releases = kernels(result for result in results if result["test"] in ("devices", "cards"))
    rows = [[kind, *(_device(_of(found, release=release, kind=kind)) for release in releases)] for kind in known]
    for driver, kind in _CARD_KINDS.items():
        of = [result for result in results if result["test"] == "cards" and result["name"].startswith(driver)]
        rows.append([kind, *(verdict(_of(of, release=release)) for release in releases)])
    return table(["interface", *releases], rows)


def _device(results: Sequence[Result]) -> str:
    cell = verdict([result | {"name": _without_kind(result)} for result in results])
    reasons = {str(result["text"]) for result in results if result["ok"] is None}
    return f"{cell}: {'; '.join(sorted(reasons))}" if cell == _NOT_TRIED and reasons else cell


def _without_kind(result: Result) -> str:
    """Return the part of the result's name after the kind of interface: the pass, and `parent` if the result belongs to
    the parent interface."""
    return ", ".join(part for part in str(result["name"]).split(": ") if part != result["kind"])


def neighbours(results: Sequence[Result]) -> str:
    """The table of tests in which an interface has qdiscs and filters of other programs. The table has a column for
    each kernel."""
    found = [result for result in results if result["test"] == "neighbours"]
    names = list(dict.fromkeys(str(result["name"]) for result in found))
    releases = kernels(found)
    # The row already shows the name of the case, so the name is removed from the results.
    found = [result | {"case": result["name"], "name": ""} for result in found]
    rows = [[name, *(verdict(_of(found, release=release, case=name)) for release in releases)] for name in names]
    return table(["on the interface", *releases], rows)


def verifier(results: Sequence[Result]) -> str:
    """The table with a row for each pair: the number of instructions that the verifier processes, the time that the
    verifier needs, and the time that the agent needs to start."""
    rows = []
    for release in kernels(results):
        for userland in RELEASES:
            of = _of(results, release=release, userland=userland)
            counted = {str(result["name"]): result for result in of if result.get("verified")}
            if "verifier" not in counted:
                continue
            whole = counted.pop("verifier")
            most = max(counted.values(), key=lambda result: result["verified"]["ingress"])
            started = [result["start_s"] for result in of if "start_s" in result]
            rows.append(
                [
                    release,
                    f"{userland}: {_versions(results, userland)}",
                    *(f"{whole['verified'][side]:,}" for side in ("ingress", "egress")),
                    f"{most['verified']['ingress']:,} ({most['name']})",
                    f"{whole['verifier_s']:.1f} s",
                    f"{min(started):.0f} s" if started else _NOT_TRIED,
                ]
            )
    head = ["kernel", "userland", "ingress", "egress", "most for one method", "verifier", "start"]
    return table(head, rows)


def when(results: Sequence[Result]) -> str:
    """The dates of the results, and the tested commits."""
    dates = sorted({str(result["date"]) for result in results})
    commits = sorted({str(result["commit"]) for result in results})
    return f"Results of {' to '.join(dict.fromkeys([dates[0], dates[-1]]))}, of commit {', '.join(commits)}."


def _versions(results: Sequence[Result], userland: str) -> str:
    for result in _of(results, userland=userland, test="machine", name="begin"):
        shown = [
            f"{name} {version.partition('-')[0].partition('+')[0].partition(':')[2] or version.partition('+')[0]}"
            for package, name in _PACKAGES
            for installed, version in result["packages"].items()
            if installed.startswith(package)
        ]
        return ", ".join(shown)
    return _NOT_TRIED


def _of(results: Iterable[Result], **wanted: str) -> list[Result]:
    return [result for result in results if all(result.get(key) == value for key, value in wanted.items())]


def replaced(text: str, name: str, content: str) -> str:
    """Return a document in which the text between the comments of a table is replaced. Raises VmError if the document
    does not have the comments of the table."""
    pattern = re.compile(rf"(<!-- vmtest: {name} -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    new, count = pattern.subn(lambda found: f"{found[1]}{content}\n{found[2]}", text)
    if count != 1:
        raise VmError(f"the document must have exactly one place for the table {name!r}")
    return new


_TABLES = {
    "docs/platforms.md": {"when": when, "pairs": pairs, "devices": devices, "neighbours": neighbours},
    "docs/performance.md": {"verifier": verifier},
}


def main() -> int:
    """Write all tables."""
    results = store.read()
    if not results:
        print("vmtest: there are no results: run make vmtest", file=sys.stderr)
        return 2
    for name, tables in _TABLES.items():
        text = (ROOT / name).read_text()
        for title, make in tables.items():
            text = replaced(text, title, make(results))
        (ROOT / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
