# SPDX-License-Identifier: Apache-2.0
"""Benchmarks. Each one measures its baseline in the same run.

Run them with `python -m bench` (see `__main__.py`). docs/performance.md has the method and the figures.

    live_traffic     cost of a packet on an interface, by the kernel's run-time statistics
    throughput       packets that a saturated path loses
    cold_cache       cost of a packet in the program, with network-stack work between two packets
    instructions     instructions that a packet executes, counted by a simulator
    kernel           cost of a packet in the program: BPF_PROG_TEST_RUN with many workloads
    readout          time and memory to read the kernel's maps
    export           time and memory to build and encode the requests of an export
    memory           kernel memory of the maps, and memory of the loader
    agent_usage      CPU share and memory of the real agent with active subnets
    start            time from the command to the first counted packet
    million_subnets  memory for a million subnets; runs only if named

All benchmarks need root. They use their own network namespaces and no existing interface.
"""
