/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Declares tables whose rows the program reaches by address, without a look-up. The kernel's name for this feature is
 * "lookup-free direct value access" (Linux 5.2). libbpf implements global variables with this feature. A look-up would
 * write the number of the row to memory, and would take twice as many instructions as direct access. Direct access
 * reduces the time per packet by 5 to 8 % (docs/performance.md).
 *
 * For the kernel, such a table is an array map with one entry, and this entry contains all rows. BCC does not support
 * direct access. So the program contains a placeholder number instead of the address, and the loader replaces the
 * number with the descriptor of the map (otel_epping/kernel/load/bytecode.py). The verifier accepts offsets of up to
 * 512 MB (BPF_MAX_VAR_OFF), so tables that may be larger are accessed by look-ups.
 */
#pragma once

#include "compiler.h"

#define MAX_DIRECT_BYTES (1ULL << 29)

/* The tables have the same order as in DIRECT_TABLES of the loader. */
enum direct_table {
    DIRECT_CONTROL,
    DIRECT_INTERFACES,
    DIRECT_INTERFACE_COUNTERS,
    DIRECT_FLOW_SETS,
    DIRECT_SLOT_CACHE,
    DIRECT_PACKETS,
};

/* Returns the address of the first row of a table. DIRECT is a number that the loader defines. */
#define DIRECT_ADDRESS(number, type)                                           \
    ({                                                                         \
        type *address;                                                         \
                                                                               \
        asm("%0 = %1 ll" : "=r"(address) : "i"((u64)DIRECT << 32 | (number))); \
        address;                                                               \
    })

/*
 * Declares an array of `length` rows, and the function NAME_row(), which returns the address of a row. The compiler
 * computes the address of a row once for all fields of the row.
 *
 * The rows are declared as an array of bytes, because BCC needs seconds to process an array of structs. The size of the
 * byte array is an enumerator, because BCC mistakes `sizeof` for the name of a field.
 */
#define DIRECT_TABLE(number, type, name, length)                                          \
    enum { name##_bytes = sizeof(type) * (length) };                                      \
    union name##_rows {                                                                   \
        type row;                                                                         \
        char rows[name##_bytes];                                                          \
    };                                                                                    \
    _Static_assert(sizeof(union name##_rows) < MAX_DIRECT_BYTES, "reached by an offset"); \
    BPF_F_TABLE("array", u32, union name##_rows, name, 1, BPF_F_MMAPABLE);                \
    static __always_inline type *name##_row(u64 number_of_row)                            \
    {                                                                                     \
        u64 row = (u64)(DIRECT_ADDRESS(number, type) + bounded(number_of_row, length));   \
                                                                                          \
        barrier_var(row);                                                                 \
        return (type *)row;                                                               \
    }
