/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The methods that measure RTTs. A row has the enumerator of the method, the function that implements the method, and
 * the kind of packets that the method needs (enum packet_kind in maps.h). The rows have the same order as METHODS in
 * otel_epping/kernel/methods.py. Each function is in the header file that has the name of the function.
 */
#pragma once

#define EACH_METHOD(ROW)                               \
    ROW(METHOD_TCP_TIMESTAMP, tcp_timestamp, KIND_TCP) \
    ROW(METHOD_TCP_SEQUENCE, tcp_sequence, KIND_TCP)   \
    ROW(METHOD_TCP_HANDSHAKE, tcp_handshake, KIND_TCP) \
    ROW(METHOD_ICMP_ECHO, icmp_echo, KIND_ICMP)        \
    ROW(METHOD_DNS, dns, KIND_UDP)                     \
    ROW(METHOD_QUIC_HANDSHAKE, quic_handshake, KIND_UDP)

#define ENUMERATOR(number, function, kind) number,
enum method { EACH_METHOD(ENUMERATOR) METHOD_COUNT };
#undef ENUMERATOR

/* The methods that are used: bit i stands for the method whose enumerator is i. By default all methods are used. */
#ifndef METHODS
#define METHODS ((1U << METHOD_COUNT) - 1)
#endif
