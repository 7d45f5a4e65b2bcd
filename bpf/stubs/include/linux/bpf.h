/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC brings its own copy of this header. */
