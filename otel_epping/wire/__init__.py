# SPDX-License-Identifier: Apache-2.0
"""OTLP written by us and sent by the official exporters: for tens of thousands of subnets, in a thirtieth of the time.

The SDK's way makes an object of each point, then a protobuf message, then bytes. Here arrays become bytes at once:

    protobuf.py     how the wire format writes numbers and fields
    pieces.py       bytes of many messages, piece by piece, joined at the end
    points.py       arrays -> data points
    request.py      data points -> a request, around what the official encoder writes
    transport.py    finds the sender for an official exporter: grpc_sender.py, http_sender.py
    retries.py      tries a request again until its time is up, and heeds Retry-After
    answer.py       what an answer means: only OTLP's is a success; failure.py: why it failed
    exchange.py     one HTTP request in a thread that can be given up, over connections.py
    renewal.py      certificates that are renewed
"""
