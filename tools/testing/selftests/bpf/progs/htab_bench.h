/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_BENCH_H
#define __HTAB_BENCH_H

/* Keys that a program goes through, one after the other */
#define HTAB_BENCH_BATCH	256

/* Bytes, at most */
#define HTAB_BENCH_KEY		256
#define HTAB_BENCH_VALUE	4096

/* __sk_buff.cb: the key's upper half, and the lower one of the first key; the
 * next run of the program begins where this one ends, up to a number of keys.
 */
enum {
	HTAB_BENCH_PRODUCER,
	HTAB_BENCH_FIRST,
	HTAB_BENCH_KEYS,
};

#endif
