# SPDX-License-Identifier: Apache-2.0
"""Every kind of interface: how it is made, and whether the RTTs on it and on its parent are right.

site.py       what a kind needs: namespaces, a number for its names and addresses, and what it says of itself
ethernet.py   interfaces on top of Ethernet
tunnels.py    IP and Ethernet in IP
encrypted.py  MACsec, WireGuard, IPsec
processes.py  interfaces of a process: tun, tap, PPPoE
check.py      makes all of them, runs the agent on all at once, judges
"""
