/* SPDX-License-Identifier: GPL-2.0 */
#ifndef __HTAB_CONTEXTS_H
#define __HTAB_CONTEXTS_H

#define NR_WORDS	8

struct ctx_val {
	__u64 v[NR_WORDS];
};

/* every word of a value tells the key it belongs to, and which write it was */
#define CTX_WORD(key, gen, i)	(((key) << 24) ^ ((__u64)(gen) << 4) ^ (i))

#define MAX_CPUS	8	/* power of two */
#define MAX_STEPS	128	/* of one CPU; power of two */
#define STEPS_PER_EXEC	16

/* so many that each key can have a bucket of its own */
#define NR_BUCKETS	16384

/* what the operations of one kind came to */
struct ctx_count {
	__u64 tries;
	__u64 ok;
	__u64 busy;
	__u64 nomem;
};

#endif
