/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_DECLARED_H
#define __HTAB_DECLARED_H

/* What the maps keep ready, and programs add */
#define DECLARED	256
/* What uses up the memory has these and as many more, a power of two */
#define LOAD_KEYS	16384

struct declared_val {
	__u64 v[4];
};

#endif
