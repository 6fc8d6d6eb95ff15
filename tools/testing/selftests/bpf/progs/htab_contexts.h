/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_CONTEXTS_H
#define __HTAB_CONTEXTS_H

#define NR_WORDS	8
#include "htab_val.h"

#define MAX_CPUS	8	/* power of two */
#define MAX_STEPS	128	/* of one CPU; power of two */
#define STEPS_PER_EXEC	16

/* so many that each key can have a bucket of its own */
#define NR_BUCKETS	16384

#endif
