/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_OPS_H
#define __HTAB_OPS_H

#define NR_WORDS	8
#include "htab_val.h"

#define MAX_CPUS	8	/* power of two */
#define NR_STABLE	128	/* keys that nobody writes; power of two */
#define NR_CHURN	64	/* others, that come and go; power of two */

/* more elements than buckets, so that what churns is among what does not */
#define WALK_ENTRIES	256

/* with keys 0 for what stays and 1 to NR_LOCKED - 1 for what comes and goes */
#define NR_LOCKED	4
#define LOCKED_WORDS	256	/* to copy them takes time */

#define NR_INNER	8	/* power of two */

#define NMI_BURST	8

#define SHORT_VAL	0x1234u

#endif
