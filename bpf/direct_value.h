/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Tables whose rows the program reaches by their address, without a look-up: the kernel's "lookup-free direct value
 * access", by which libbpf has global variables. That spares each row's key, which goes through memory, and half of
 * the instructions: 5 to 8 % of a packet in all (docs/performance.md).
 *
 * To the kernel such a table is an array with one entry, all rows together. BCC doesn't know of it, so the address is a
 * number that stands nowhere else, and the loader (otel_epping/kernel/bytecode.py) says which map's it is. The
 * verifier follows an offset of up to 512 MB (BPF_MAX_VAR_OFF), so tables that may be larger are looked up.
 */
#pragma once

#include "compiler.h"

/* In the order of DIRECT_TABLES of the loader. */
enum direct_table {
    DIRECT_CONTROL,
    DIRECT_INTERFACES,
    DIRECT_INTERFACE_COUNTERS,
    DIRECT_FLOW_SETS,
    DIRECT_PAIRS,
    DIRECT_PACKETS,
};

/* The address of the first row. DIRECT is the loader's number. */
#define DIRECT_ADDRESS(number, type)                                           \
    ({                                                                         \
        type *address;                                                         \
                                                                               \
        asm("%0 = %1 ll" : "=r"(address) : "i"((u64)DIRECT << 32 | (number))); \
        address;                                                               \
    })

/*
 * An array of `length` rows, and NAME_row(): a row of it, whose address the compiler does not compute again for each
 * field. (The rows are bytes to BCC, and their size a name: an array of structs takes it seconds, and it would take a
 * sizeof for another field.)
 */
#define DIRECT_TABLE(number, type, name, length)                                   \
    enum { name##_bytes = sizeof(type) * (length) };                               \
    union name##_rows {                                                            \
        type row;                                                                  \
        char rows[name##_bytes];                                                   \
    };                                                                             \
    BPF_F_TABLE("array", u32, union name##_rows, name, 1, BPF_F_MMAPABLE);         \
    static __always_inline type *name##_row(u64 number_of_row)                     \
    {                                                                              \
        type *row = DIRECT_ADDRESS(number, type) + bounded(number_of_row, length); \
                                                                                   \
        return (type *)opaque((u64)row);                                           \
    }
