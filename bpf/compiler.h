/* SPDX-License-Identifier: GPL-2.0-only */
/* Compiler barriers, bounds of indexes, and marks of cold code. */
#pragma once

#include "config.h"

/*
 * Hides the value of a variable from the compiler, as libbpf's barrier_var() does. So the register that is compared is
 * the register that is used, and not another one with the same value. The variable must have 64 bits: of a shorter one
 * the compiler would compare a copy that is cut to 32 bits. (The verifier still knows the value: it stays in the same
 * register. hide_from_verifier() in packet.h hides it from both.)
 */
#define barrier_var(variable)                                               \
    do {                                                                    \
        _Static_assert(sizeof(variable) == sizeof(u64), "64-bit variable"); \
        asm volatile("" : "+r"(variable));                                  \
    } while (0)

/*
 * Returns the number, which must be less than `limit`, a constant. All indexes into arrays and all offsets into packets
 * are bounded in this way. No packet exceeds a bound. If one did, the program would end here, and the packet would pass
 * unchanged.
 *
 * A comparison in C is not enough. The compiler may compare one register and index with another one that has the same
 * value, or with one that it shifted or cut to 32 bits before the comparison. It may drop a comparison whose result it
 * knows but the verifier does not. LLVM 14 and LLVM 19 do so in different places. Here one register is compared and
 * returned, by instructions that the compiler cannot separate, and the compiler knows nothing of the result. The number
 * has 64 bits, because LLVM compares a 32-bit number in a copy. `exit` needs no branch in C, which the compiler might
 * merge with other branches. r0 is written on this path only, so it needs no declaration.
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
 * Marks the code that follows as cold, that is, rarely executed. The loader moves this code, and all code that is
 * reached only from here, to the end of the program (otel_epping/kernel/load/bytecode.py). COLD is a number that the
 * loader defines and finds again. The loader removes the instruction.
 */
static __always_inline void cold(void)
{
    u64 mark;

    asm volatile("%0 = %1" : "=r"(mark) : "i"(COLD));
}
