# SPDX-License-Identifier: Apache-2.0
"""Benchmarks, each beside its baseline in the same run: `python -m bench`, see `__main__.py`; docs/performance.md has
the method and the figures.

    kernel       what a packet costs in the program: BPF_PROG_TEST_RUN over mixes of packets
    live         what it costs on an interface, by the kernel's own account
    throughput   what a saturated path loses by it
    readout      a reading of the kernel's memory
    export       from a reading to the bytes of its requests
    memory       what the maps take in the kernel, and the loader
    agent        the real agent with active subnets: its share of a core, its memory
    start        from the command to the first packet that counts
    million      a million subnets; not among those that run when none is named

All need root. They use namespaces of their own, and no interface that was there before.
"""
