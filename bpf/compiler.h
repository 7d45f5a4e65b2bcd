/* SPDX-License-Identifier: GPL-2.0-only */
/* Functions for compiler barriers, for bounds checks of indexes, and for marking cold code. */
#pragma once

#include "config.h"

/*
 * Hides the value of a variable from the compiler, as libbpf's barrier_var() does. After this barrier, the program
 * compares a register with a bound and then uses the same register. Without the barrier, the compiler might use another
 * register that has the same value. The variable must have 64 bits. For a shorter variable, the compiler would compare
 * a 32-bit copy of the variable. The verifier still knows the value of the variable, because the value stays in the
 * same register. hide_from_verifier() in packet.h hides a value from the compiler and the verifier.
 */
#define barrier_var(variable)                                               \
    do {                                                                    \
        _Static_assert(sizeof(variable) == sizeof(u64), "64-bit variable"); \
        asm volatile("" : "+r"(variable));                                  \
    } while (0)

/*
 * Returns `number`, which must be less than the constant `limit`. The program calls this function for all indexes into
 * arrays and for all offsets into packets. If `number` is too large, the program ends here, and the packet passes
 * unchanged. The check is only for the verifier, because `number` is never too large.
 *
 * A comparison in C does not convince the verifier. The compiler may compare one register and use another register as
 * the index. The register that is used may have the same value as the register that is compared, or the compiler may
 * have shifted the value, or cut the value to 32 bits. The compiler may also remove a comparison whose result it can
 * prove, although the verifier cannot prove the result. LLVM 14 and LLVM 19 change comparisons in different places. The
 * instructions below compare a register and return the same register, and the compiler cannot separate these
 * instructions. The compiler does not know anything about the number that the instructions return. `number` has 64
 * bits. LLVM would copy a 32-bit number before the comparison, so the verifier would know the bound of the copy only.
 * The instruction `exit` avoids a branch in C, which the compiler might merge with other branches. Only the path to
 * `exit` writes r0, so r0 is not in the list of registers that the instructions change.
 */
static __always_inline u64 bounded(u64 number, u64 limit)
{
    asm volatile("if %0 < %1 goto +3\n"
                 "r0 = %2\n"
                 "r0 = -1\n" /* TC_ACT_UNSPEC */
                 "exit"
                 : "+r"(number)
                 : "i"(limit), "i"(COLD));
    return number;
}

/*
 * Marks the code that follows as cold, that is, rarely executed. The loader moves the cold code to the end of the
 * program, and also all code that can be reached only through cold code (otel_epping/kernel/load/bytecode.py). COLD is
 * a number that the loader defines. The loader searches the program for this number to find the instruction below, and
 * removes the instruction.
 */
static __always_inline void cold(void)
{
    u64 mark;

    asm volatile("%0 = %1" : "=r"(mark) : "i"(COLD));
}
