# SPDX-License-Identifier: Apache-2.0
"""Creates every kind of interface, and checks the RTTs on the interface and on its parent.

site.py       helpers for all kinds: namespaces, a number for names and addresses, and the expected results
ethernet.py   interfaces on top of Ethernet
tunnels.py    tunnels for IP and Ethernet over IP
encrypted.py  MACsec, WireGuard, IPsec
processes.py  interfaces of a process: tun, tap, PPPoE
check.py      creates all interfaces, runs one agent on all of them, and checks the results
"""
