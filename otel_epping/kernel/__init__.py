# SPDX-License-Identifier: Apache-2.0
"""Loads the kernel program, attaches it to interfaces, and reads its maps.

This package does not depend on OpenTelemetry.

    config -> load/ -> attach/      compiles and loads the program, and attaches it to interfaces
    map_array -> read/ -> reading   maps the program's tables as numpy arrays, and makes readings from these arrays

`collector.EppingCollector` combines both paths.
"""
