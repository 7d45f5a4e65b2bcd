# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the loaded kernel program and checks it with a model: `python -m tests.long.fuzz --help`, or `make fuzz`.

BPF_PROG_TEST_RUN sends packets through the program. Most of the packets are broken on purpose. For each packet, a model
in Python predicts how the packet is counted and which RTT samples it completes. The model follows the RFCs and
docs/methods.md, and uses no code of the program. If these documents permit several behaviours, a comment in the model
names the chosen behaviour. Model and program must agree on every counter of the interface, on all counts of every
subnet, and on every bucket of every histogram.

    meaning.py      model: the meaning of a packet, read from its bytes
    flows.py        model: how a segment relates to earlier segments, and the metrics of flows
    methods.py      model: which RTT samples a sequence of packets completes
    rules.py        model: all counts
    builders.py     whole packets, layer by layer
    talks.py        conversations of whole packets, and conversations from captures
    mutations.py    changes of packets
    episodes.py     sequences of packets: random sequences, and sweeps over all cases of a kind; a seed determines each
    trial.py        runs an episode through program and model, and reduces a disagreement to as few packets as possible
    command.py      the command line

At the start of an episode, neither the program nor the model knows any flow or subnet. So the result of an episode does
not depend on earlier episodes: an episode can run again alone, and can be reduced to the few packets that show a fault.
"""
