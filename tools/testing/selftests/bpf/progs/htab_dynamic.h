/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_DYNAMIC_H
#define __HTAB_DYNAMIC_H

/* with the key, values of four words make elements of 64 bytes */
#include "htab_val.h"

#define STEPS_PER_EXEC	16

#define MAX_CPUS	128	/* power of two */
#define SLOTS_PER_CPU	4	/* power of two */

/* who owns a set of slots: the programs that may nest in each other */
enum {
	OWNER_LOW,	/* fentry, kprobe, perf_event */
	OWNER_NMI,	/* programs that run in NMI only */
	NR_OWNERS,
};

#endif
