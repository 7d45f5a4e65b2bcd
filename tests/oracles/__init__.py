# SPDX-License-Identifier: Apache-2.0
"""Holds our samples against tools that we did not write: a command of its own, for any capture.

    .venv/bin/python tests/oracles pping CAPTURE OUTPUT      tcp_timestamp against Kathie Nichols' pping
    .venv/bin/python tests/oracles tshark CAPTURE            the other methods against Wireshark's analysis
    .venv/bin/python tests/oracles coverage CAPTURE...       flows that get an RTT, and why the others get none
    .venv/bin/python tests/oracles links                     link headers of the tests, against tshark and tcpdump
    .venv/bin/python tests/oracles all FOLDER                every capture, with the references next to it

`ours` runs the loaded kernel program over a capture and notes which frame ended which RTT. Everything else here reads
the capture on its own (`frames`, `dissect`), so that an error in the program's way to read a packet shows.

    frames       the records of a capture file
    dissect      from bytes to the facts of a TCP packet, by the RFCs
    ours         our samples
    rules        the sampling rules of tcp_timestamp once more, slow and plain, with the reason why a TSval gave no RTT
    nichols      what pping does, by its source, and what it printed
    pping        ours against pping's: every difference has a name, or it is an error
    wireshark    what tshark found: asked now, or read from CSV files made earlier
    tshark       ours against Wireshark's
    coverage     flows and their RTTs
    layouts      link types and link headers that the tests make, as tshark and tcpdump read them
    report       a tally, and the verdict
"""
