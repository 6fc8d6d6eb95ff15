/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_FAULTS_H
#define __HTAB_FAULTS_H

/* so large that what maps keep ready is soon spent */
#define NR_WORDS	32
#include "htab_val.h"

#define MAX_CPUS	8
#define NR_KEYS		32	/* of a context on a CPU; power of two */

enum {
	TYPE_HASH,
	TYPE_PERCPU_HASH,
	TYPE_HASH_OF_MAPS,
	NR_TYPES,
};

enum {
	CTX_KPROBE,
	CTX_RAW_TP_IRQOFF,
	CTX_PERF_EVENT,
	CTX_NMI,
	CTX_FENTRY_S,
	NR_CTX,
};

/* so many that each key can have a bucket of its own */
#define NR_BUCKETS	16384

#endif
