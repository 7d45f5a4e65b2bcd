# SPDX-License-Identifier: Apache-2.0
"""Creates every kind of interface, and checks the RTTs on the interface and on its parent.

site.py       the helpers for a kind: namespaces, a number for its names and addresses, and its expected results
ethernet.py   interfaces on top of Ethernet
tunnels.py    tunnels for IP and Ethernet over IP
encrypted.py  MACsec, WireGuard, IPsec
processes.py  interfaces of a process: tun, tap, PPPoE
check.py      creates all interfaces, runs one agent on all of them, and checks the results
"""
