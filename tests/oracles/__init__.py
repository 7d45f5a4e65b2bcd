# SPDX-License-Identifier: Apache-2.0
"""Compares our RTT samples with the samples of other tools. The comparison is a separate command. The command accepts
any capture.

    .venv/bin/python tests/oracles pping CAPTURE OUTPUT      compares tcp_timestamp with Kathie Nichols' pping
    .venv/bin/python tests/oracles tshark CAPTURE            compares the other methods with Wireshark's analysis
    .venv/bin/python tests/oracles coverage CAPTURE...       lists the flows without an RTT, with the reasons
    .venv/bin/python tests/oracles links                     checks that tshark and tcpdump can read the tests' packets
    .venv/bin/python tests/oracles all FOLDER                runs all checks for each capture in a folder

`ours` runs the loaded kernel program over a capture and records which frame completed which RTT. All other modules read
the capture with separate code (`frames`, `dissect`), so they also find errors in the program's parser.

    frames       the records of a capture file
    dissect      reads the fields of a TCP packet from a frame, by the RFCs
    ours         our samples
    rules        the sampling rules of tcp_timestamp in simple Python, with the reason why a TSval gave no RTT
    nichols      pping's rules, according to its source code, and its output
    pping        compares our samples with pping's: each difference must be explained by a rule
    wireshark    tshark's results, from running tshark or from CSV files
    tshark       compares our samples with Wireshark's
    coverage     flows and their RTTs
    layouts      the link types and link headers of the tests, as tshark and tcpdump read them
    report       counts, errors, and the verdict
"""
