# SPDX-License-Identifier: Apache-2.0
"""Benchmarks. If a benchmark compares several programs, it measures all of them in the same run.

Run the benchmarks with `python -m bench` (see `__main__.py`). docs/performance.md describes the methods and has the
results.

    live_traffic     time per packet on an interface, by the kernel's run-time statistics
    throughput       share of packets that a saturated path loses
    cold_cache       time per packet in the program, while the network stack runs between two packets
    instructions     instructions that are executed for a packet, counted by a simulator
    kernel           time per packet in the program, by BPF_PROG_TEST_RUN with many workloads
    readout          time and memory to read the kernel's maps
    export           time and memory to build and encode the requests of an export
    memory           kernel memory of the maps, and memory of the loader
    agent_usage      CPU share and memory of the real agent with active subnets
    top_usage        CPU share, memory and speed of the real `top` with active subnets
    start            time from the command to the first counted packet
    million_subnets  memory for a million subnets; runs only if it is named

All benchmarks need root. The benchmarks create their own network namespaces and do not use existing interfaces.
"""
