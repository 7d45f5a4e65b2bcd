# SPDX-License-Identifier: Apache-2.0
"""Encodes OTLP requests from arrays and sends them through the official exporters.

The SDK creates an object for each data point, converts the object to a protobuf message, and encodes the message as
bytes. The package otlp/ converts arrays directly to bytes. For tens of thousands of subnets, otlp/ is 30 times as fast
as the SDK.

    protobuf.py              encodes numbers and fields in the protobuf wire format
    message_columns.py       encodes many messages column by column
    points.py                encodes arrays as data points
    request.py               combines encoded metrics with the output of the official encoder into a request
    encoder.py               encodes a batch of the producer as a request
    official_exporters.py    builds the official exporters from checked settings
    transport.py             returns the sender for an official exporter
    grpc_sender.py           sends requests over gRPC
    http_sender.py           sends requests over HTTP
    http_exchange.py         runs one HTTP request in a thread, with a deadline
    http_connections.py      provides connections that an exchange can shut down, for the package `requests`
    retries.py               retries a request until its deadline and honours Retry-After
    answer.py                interprets a response: only an OTLP response is a success
    failure.py               describes why an export failed
    certificate_renewal.py   detects renewed certificates and keys while the agent runs
"""
