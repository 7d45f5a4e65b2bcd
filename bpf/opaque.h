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
 * What follows is rare: the loader moves it, and all that is reached from here only, behind everything else
 * (otel_epping/kernel/bytecode.py). RARE is the loader's number, and no instruction is left of this.
 */
static __always_inline void rare(void)
{
    u64 mark;

    asm volatile("%0 = %1" : "=r"(mark) : "i"(RARE));
}
