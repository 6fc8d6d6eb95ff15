/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __ALLOC_FAULTS_H
#define __ALLOC_FAULTS_H

/* Whose allocations fail */
#define FAULT_SLAB	1	/* of slab objects */
#define FAULT_PAGE	2	/* of pages */
#define FAULT_PERCPU	4	/* of the pages of per-CPU areas, and of vmalloc() */

#define MAX_OBJ_SIZES	2
#define MAX_CALLS	1024	/* power of two */

/* A call of bpf() or a worker, while it runs */
struct call {
	__u32 tid;
	bool in_bpf;
	bool tool;	/* has last asked for an object of a debugging tool */
};

/* An allocation that is not freed yet */
struct alloc {
	__u64 site;	/* who asked for it */
	__u64 size;
};

#endif
