/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_REENTRY_H
#define __HTAB_REENTRY_H

struct re_val {
	__u64 v[4];
};

/* every word of a value tells the key it belongs to, and which write it was */
#define RE_WORD(key, gen, i)	(((key) << 24) ^ ((__u64)(gen) << 2) ^ (i))

#define MAX_CPUS	8	/* power of two */
#define MAX_FUNCS	8
#define SLOTS_PER_CPU	4	/* power of two */
#define NR_HOT		4	/* power of two */
#define HOT_BASE	0x100000000ULL
#define RUN_BASE	0x200000000ULL
#define RUN_KEYS	64

#define NR_BUCKETS	8192

/* a key that only the nested programs of one CPU write */
struct re_slot {
	__u64 key;
	__u64 gen;	/* of the last write that succeeded, 0: deleted */
};

/* what the operations of one kind came to */
struct re_count {
	__u64 tries;
	__u64 ok;
	__u64 busy;
	__u64 nomem;
	__u64 other;
};

#endif
