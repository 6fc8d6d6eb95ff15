/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_DYNAMIC_H
#define __HTAB_DYNAMIC_H

/* with the key this makes an element of 64 bytes, if the head takes 24 */
struct dyn_val {
	__u64 v[4];
};

/* every word of a value tells the key it belongs to, and which write it was */
#define DYN_WORD(key, gen, i)	(((key) << 24) ^ ((__u64)(gen) << 2) ^ (i))

#define STEPS_PER_EXEC	16

#define MAX_CPUS	128	/* power of two */
#define SLOTS_PER_CPU	4	/* power of two */

/* who owns a set of slots: the programs that may nest in each other */
enum {
	OWNER_LOW,	/* fentry, kprobe, perf_event */
	OWNER_NMI,	/* programs that run in NMI only */
	NR_OWNERS,
};

/* a key that only the programs of one CPU and owner write */
struct dyn_slot {
	__u64 key;
	__u64 gen;	/* of the last write that succeeded, 0: deleted */
};

/* what the operations of one kind came to */
struct dyn_count {
	__u64 tries;
	__u64 ok;
	__u64 busy;
	__u64 nomem;
	__u64 other;
};

#endif
