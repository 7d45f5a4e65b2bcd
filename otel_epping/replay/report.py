# SPDX-License-Identifier: Apache-2.0
"""Creates the lines that `replay` prints after the table: totals, and the reasons why packets were not measured."""

from collections.abc import Iterator, Mapping

from otel_epping.kernel.reading import Reading
from otel_epping.replay import counts
from otel_epping.replay.input_files import InputFiles
from otel_epping.replay.replayer import MAX_WIRE_LENGTH, Replayer

_TIMESTAMP_FAULTS = {
    "missing": "because segments have no timestamp",
    "still": "because the TSval does not advance",
    "unechoed": "because a TSval was acknowledged but not echoed",
}


def report(replayer: Replayer, reading: Reading, files: InputFiles, seconds: float, events_lost: int) -> Iterator[str]:
    """Yields the lines of the report. `seconds` is the duration of the replay."""
    packets = packet_count(replayer, reading)
    span_s = max(0, replayer.latest_ns - replayer.started_ns) / 1e9
    yield (
        f"{files.files_read:,} file{'s' * (files.files_read != 1)}: {packets:,} packets spanning {span_s:,.3f} s, "
        f"replayed in {seconds:.3f} s ({packets / seconds:,.0f} packets/s)"
    )
    yield from _rtt_samples(replayer, reading)
    yield from _packets(replayer, reading)
    if events_lost:
        yield f"events lost because the ring buffer was full: {events_lost:,}"
    yield from files.remarks()


def packet_count(replayer: Replayer, reading: Reading) -> int:
    """Returns the number of packets that were replayed, including packets that are too short for the program."""
    return sum(counts.packets(reading).values()) + replayer.too_short


def _rtt_samples(replayer: Replayer, reading: Reading) -> Iterator[str]:
    outcomes = counts.rtt_outcomes(reading, replayer.waiting())
    started = outcomes.pop("begun")
    yield f"RTT samples started: {started:,}" + (f" = {_nonzero(outcomes, ' + ')}" if started else "")
    if clamped := counts.clamped(reading):
        yield f"measured RTTs outside the histogram range (1 us to 64 s), counted as the nearest limit: {clamped:,}"
    if not_started := counts.not_started(reading):
        yield f"RTT samples not started because four samples of the flow and direction were waiting: {not_started:,}"


def _packets(replayer: Replayer, reading: Reading) -> Iterator[str]:
    packets = counts.packets(reading)
    if packets["tcp"]:
        yield f"TCP packets without timestamps: {counts.share_without_timestamps(reading):.1%} of {packets['tcp']:,}"
    faults = {_TIMESTAMP_FAULTS[fault]: count for fault, count in counts.timestamp_faults(reading).items()}
    if any(faults.values()):
        yield f"flow directions measured by sequence numbers instead of TCP timestamps: {_nonzero(faults)}"
    if duplicates := counts.duplicates(reading):
        yield f"packets that were captured twice, and measured once: {duplicates:,}"
    not_measured = {
        "not IP": packets["non_ip"],
        "malformed": packets["malformed"] - replayer.cut_malformed,
        "fragments": packets["fragment"],
        "truncated within a header by the snap length": replayer.cut_too_short + replayer.cut_malformed,
        "shorter than a link or IP header": replayer.too_short - replayer.cut_too_short,
        "without a valid timestamp": replayer.untimed,
    }
    if any(not_measured.values()):
        yield f"packets that cannot be measured: {_nonzero(not_measured)}"
    if replayer.too_long:
        yield f"packets longer than {MAX_WIRE_LENGTH:,} bytes, counted with this length: {replayer.too_long:,}"
    if replayer.steps_back:
        yield (
            f"packets with an earlier timestamp than the previous packet: {replayer.steps_back:,}, "
            f"by up to {replayer.step_back_ns / 1e9:,.6f} s; no RTT is measured if a reply is earlier than its request"
        )


def _nonzero(counts_by_name: Mapping[str, int], separator: str = ", ") -> str:
    return separator.join(f"{count:,} {name}" for name, count in counts_by_name.items() if count)
