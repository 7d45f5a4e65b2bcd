/* SPDX-License-Identifier: GPL-2.0-only */
/* What the compiler must not know, and what it has to be told. */
#pragma once

#include "config.h"

/*
 * The same number, of which the compiler now knows nothing: so what is shown to the verifier to be bounded is what is
 * used, and not another register with the same value. 64 bits, or it would be a copy that is shown, cut to 32.
 */
static __always_inline u64 opaque(u64 number)
{
    asm volatile("" : "+r"(number));
    return number;
}

/*
 * Returns the number, which must be less than `limit`, a constant. All indexes into arrays and all offsets into packets
 * are bounded in this way. No packet exceeds a bound. If one did, the program would end here and leave the packet
 * alone.
 *
 * A bound in C can get lost. The compiler may compare one register and index with another one that has the same value,
 * or with one that it shifted or cut to 32 bits before the comparison. It may drop a comparison whose result it knows,
 * and the verifier does not. LLVM 14 and LLVM 19 do so in different places. Here one register is compared and returned,
 * by instructions that the compiler cannot divide, and the compiler knows nothing of the result. The number has 64
 * bits, since LLVM compares numbers of 32 bits in a copy. Leaving by `exit` needs no branch in C, which the compiler
 * might join with others; r0 is written on this way only, so it need not be declared.
 */
static __always_inline u64 bounded(u64 number, u64 limit)
{
    asm volatile("if %0 < %1 goto +3\n"
                 "r0 = %2\n"
                 "r0 = -1\n" /* TC_ACT_UNSPEC */
                 "exit"
                 : "+r"(number)
                 : "i"(limit), "i"(RARE));
    return number;
}

/*
 * What follows is rare: the loader moves it, and all that is reached from here only, behind everything else
 * (otel_epping/kernel/bytecode.py). RARE is the loader's number, and no instruction is left of this.
 */
static __always_inline void rare(void)
{
    u64 mark;

    asm volatile("%0 = %1" : "=r"(mark) : "i"(RARE));
}
