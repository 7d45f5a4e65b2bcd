# SPDX-License-Identifier: Apache-2.0
"""OTLP written by us and sent by the official exporters: for tens of thousands of subnets, in a thirtieth of the time.

The SDK's way makes an object of each point, then a protobuf message, then bytes. Here arrays become bytes at once:

    protobuf.py              how the wire format writes numbers and fields
    columns.py               many messages as columns of fields, joined at the end
    points.py                arrays to data points
    encoder.py               batches of the producer to OTLP requests
    request.py               data points to a request, around what the official encoder writes
    official_exporters.py    builds the official exporters from checked settings
    transport.py             finds the sender for an official exporter: grpc_sender.py, http_sender.py
    http_exchange.py         one HTTP request in a thread that can be given up, over http_connections.py
    retries.py               tries a request again until its deadline, and honours Retry-After
    answer.py                what a response means: only an OTLP response is a success
    failure.py               why an export failed
    certificate_renewal.py   certificates and keys that are renewed while the agent runs
"""
