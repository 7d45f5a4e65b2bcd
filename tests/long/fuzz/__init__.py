# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the loaded kernel program and checks it with a model: `python -m tests.long.fuzz --help`, or `make fuzz`.

BPF_PROG_TEST_RUN sends packets through the program; most of the packets are broken on purpose. For each packet, a model
in Python predicts how the packet is counted and which RTT samples it completes. The model follows the RFCs and
docs/methods.md and uses no code of the program. Where these documents permit several behaviours, a comment in the model
says which one it chooses. Model and program must agree on every counter of the interface, on all counts of every
subnet, and on every bucket of every histogram.

    meaning.py      the model, first half: the meaning of a packet, read from its bytes
    flows.py        the model, second half: how a segment relates to earlier segments, and the metrics of flows;
    methods.py      which RTT samples a sequence of packets completes;
    rules.py        and all counts
    builders.py     whole packets, layer by layer
    talks.py        conversations of whole packets, and conversations from captures
    mutations.py    changes of packets
    episodes.py     sequences of packets: random ones, and sweeps over all cases of a kind. Each depends only on its
    seed
    trial.py        runs an episode through program and model, and reduces a disagreement to as few packets as possible
    command.py      the command line

At the start of an episode, neither program nor model knows any flow or subnet. Therefore each episode can run again
alone, and can be reduced to the few packets that show a fault.
"""
