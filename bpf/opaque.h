/* SPDX-License-Identifier: GPL-2.0-only */
/* Where compiler and verifier must not understand each other too well. */
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
