/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_REENTRY_H
#define __HTAB_REENTRY_H

#include "htab_val.h"

#define MAX_CPUS	8	/* power of two */
#define MAX_FUNCS	8
#define SLOTS_PER_CPU	4	/* power of two */
#define NR_HOT		4	/* power of two */
#define HOT_BASE	0x100000000ULL
#define RUN_BASE	0x200000000ULL
#define RUN_KEYS	64

#define NR_BUCKETS	8192

/* Programs that may be called without end, and when they stop */
#define MANY_KEYS	128
#define MAX_CALLS	100000

struct large_val {
	char c[9000];
};

#endif
