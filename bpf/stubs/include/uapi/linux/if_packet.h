/* SPDX-License-Identifier: GPL-2.0-only */
/* Included by BCC, needed by nothing of ours. */
