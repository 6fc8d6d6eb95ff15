/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __STORAGE_BENCH_H
#define __STORAGE_BENCH_H

#include <linux/types.h>

/* Operations of a program, one after the other */
#define STORAGE_BENCH_BATCH	64

struct storage_val {
	__u64 v[4];
};

#endif
