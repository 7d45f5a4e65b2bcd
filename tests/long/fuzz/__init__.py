# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the loaded kernel program, and compares the program with a model: `python -m tests.long.fuzz --help`, or `make
fuzz`.

BPF_PROG_TEST_RUN sends packets through the program. Most of the packets are broken on purpose. For each packet, a model
in Python predicts how the packet is counted and which RTT samples the packet completes. The model follows the RFCs and
docs/methods.md. The model uses no code of the kernel program. If the RFCs and docs/methods.md permit several
behaviours, a comment in the model names the chosen behaviour. The model and the program must agree on every interface
counter, every subnet counter and every histogram bucket.

    meaning.py      model: the meaning of a packet, read from its bytes
    flows.py        model: how a segment relates to earlier segments, and the metrics of flows
    methods.py      model: which RTT samples a sequence of packets completes
    slots.py        model: which subnets and histograms have rows of their own
    rules.py        model: all counts
    builders.py     whole packets, layer by layer
    talks.py        conversations of whole packets, and conversations from captures
    mutations.py    changes of packets
    episodes.py     sequences of packets: random sequences, and sweeps over all cases of a kind; a seed determines each
    trial.py        runs an episode through program and model, and reduces a disagreement to as few packets as possible
    command.py      the command line

At the start of an episode, neither the program nor the model knows any flow or subnet. So the result of an episode does
not depend on earlier episodes: each episode can be repeated alone, and can be reduced to the few packets that cause a
disagreement.
"""
