/* SPDX-License-Identifier: GPL-2.0-only */
/* BCC includes this header. The program does not need the header, so this file is empty. */
