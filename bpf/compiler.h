/* SPDX-License-Identifier: GPL-2.0-only */
/* Compiler barriers, bounds of indexes, and marks of cold code. */
#pragma once

#include "config.h"

/*
 * Hides the value of a variable from the compiler, as libbpf's barrier_var() does. Then the register that the program
 * compares with a bound is also the register that it uses afterwards. Otherwise the compiler might use another register
 * with the same value. The variable must have 64 bits. If the variable were shorter, the program would compare a copy
 * of the variable that has only 32 bits. The verifier still knows the value, because the value stays in the same
 * register. hide_from_verifier() in packet.h hides a value from the compiler and the verifier.
 */
#define barrier_var(variable)                                               \
    do {                                                                    \
        _Static_assert(sizeof(variable) == sizeof(u64), "64-bit variable"); \
        asm volatile("" : "+r"(variable));                                  \
    } while (0)

/*
 * Returns `number`, which must be less than the constant `limit`. All indexes into arrays and all offsets into packets
 * are bounded in this way. No packet leads to a number that is too large. If a packet led to such a number, the program
 * would end here, and the packet would pass unchanged.
 *
 * A comparison in C is not enough. The compiler may compare one register and use another register as the index: a
 * register with the same value, or a register that it shifted or cut to 32 bits before the comparison. The compiler may
 * also remove a comparison if it can prove the result, even if the verifier cannot. LLVM 14 and LLVM 19 do this in
 * different places. The instructions below compare a register and return the same register, and the compiler cannot
 * separate these instructions. The compiler does not know anything about the result. The number has 64 bits, because
 * LLVM would compare only a copy if the number had 32 bits. The instruction `exit` avoids a branch in C, which the
 * compiler might merge with other branches. Only the path to `exit` writes r0. So r0 need not be in the list of changed
 * registers.
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
 * Marks the code that follows as cold, that is, rarely executed. The loader moves this code, and all code that can be
 * reached only through this code, to the end of the program (otel_epping/kernel/load/bytecode.py). COLD is a number
 * that the loader defines. By this number the loader finds the instruction below, and then removes the instruction.
 */
static __always_inline void cold(void)
{
    u64 mark;

    asm volatile("%0 = %1" : "=r"(mark) : "i"(COLD));
}
