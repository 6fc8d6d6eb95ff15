/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_REUSE_H
#define __HTAB_REUSE_H

#define MAX_ENTRIES	256
#define KEY		1000

/* elements of 64 bytes */
struct reuse_val {
	unsigned long long key;
	unsigned long long rest[3];
};

#endif
