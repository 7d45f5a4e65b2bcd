# SPDX-License-Identifier: Apache-2.0
"""Everything that touches the kernel: load the program, attach it, read its memory. Knows nothing of OpenTelemetry.

A packet becomes a count in `bpf/epping.bpf.c`; a count becomes a number in Python here:

    config -> loader -> interfaces      the program gets into the kernel and onto an interface
    memory -> collector                 its maps, as numpy arrays, become readings
"""
