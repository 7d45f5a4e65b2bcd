# SPDX-License-Identifier: Apache-2.0
"""Fuzzing the loaded kernel program, with a judge of its own: `python -m tests.long.fuzz --help`, or `make fuzz`.

Packets, most of them broken on purpose, run through the program by BPF_PROG_TEST_RUN. A model in Python says of each
what it must be counted as and which round-trip times it ends. It was written from the RFCs and docs/methods.md, with
none of the program's code; where those leave a choice, it says so. Model and program must agree on every counter of
the interface, on all that is counted for every subnet, and on every histogram, bucket by bucket.

    meaning.py      the model, first half: what a packet is, read from its bytes
    flows.py        the model, second half: what a segment is to those before it, and how flows behave,
    methods.py      which RTTs a sequence of packets ends,
    rules.py        and what is counted
    builders.py     whole packets, layer by layer
    talks.py        conversations of whole packets, and those of captures
    mutations.py    what is done to them
    episodes.py     sequences of packets, each made from its seed alone: random ones, and sweeps of all cases of a kind
    trial.py        an episode through program and model; what they disagree about, and the least that shows it
    command.py      the command line

An episode begins with no flow and no subnet known, so it can be run again by itself, and cut down to the few packets
that are needed to show a fault.
"""
