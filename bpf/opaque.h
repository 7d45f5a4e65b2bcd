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
 * The same number, which is less than `limit`, a constant: how every index and offset in the program is bounded. No
 * packet goes beyond a bound, so the program would end there, and leave the packet alone.
 *
 * Compiler and verifier each lose a bound that is written in C. The compiler compares one register and uses another
 * that has the same value, or one that it has shifted or cut to 32 bits before; or it leaves the comparison out, for it
 * knows more than the verifier does. LLVM 14 and LLVM 19 do so in different places. Here one register is compared and
 * handed on, in instructions that the compiler can neither divide nor understand, and after the comparison no other
 * number is known to it to be the same. The number has 64 bits, since the verifier of Linux 6.1 doesn't carry over a
 * bound of the lower 32. The way out is an exit, and not a branch of C, for the compiler might join that with others.
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
