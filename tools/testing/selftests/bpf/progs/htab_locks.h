/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_LOCKS_H
#define __HTAB_LOCKS_H

#define MAX_ENTRIES	256
#define MAX_CPUS	128	/* power of two */

#define NR_WORDS	3
#include "htab_val.h"

#define NR_OTHERS	64	/* user space writes these, too: 1 to 64 */
#define NR_OWN		8	/* power of two */

/* what the operations of one kind came to */
struct lock_count {
	__u64 tries;
	__u64 ok;
	__u64 busy;
	__s64 other;	/* the last other error */
};

#endif
