# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the loaded kernel program and checks it with a model: `python -m tests.long.fuzz --help`, or `make fuzz`.

BPF_PROG_TEST_RUN runs packets through the program; most of them are broken on purpose. For each packet, a model in
Python says how it must be counted and which RTT samples it completes. The model is written from the RFCs and
docs/methods.md, without any code of the program; where those leave a choice, the model says so. Model and program must
agree on every counter of the interface, on all counts of every subnet, and on every histogram, bucket by bucket.

    meaning.py      the model, first half: what a packet is, read from its bytes
    flows.py        the model, second half: how a segment relates to earlier ones, and metrics of flows,
    methods.py      which RTT samples a sequence of packets completes,
    rules.py        and what is counted
    builders.py     whole packets, layer by layer
    talks.py        conversations of whole packets, and conversations from captures
    mutations.py    changes of packets
    episodes.py     sequences of packets, each made from its seed alone: random ones, and sweeps of all cases of a kind
    trial.py        runs an episode through program and model, and reduces a disagreement to the fewest packets
    command.py      the command line

An episode begins without known flows and subnets. So it can run again by itself, and can be reduced to the few packets
that show a fault.
"""
