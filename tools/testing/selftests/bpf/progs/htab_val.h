/* SPDX-License-Identifier: GPL-2.0 */
/* What the values in the tests of hash maps hold, for programs and user space.
 * NR_WORDS: their size, 4 unless said.
 */
#ifndef __HTAB_VAL_H
#define __HTAB_VAL_H

#ifndef NR_WORDS
#define NR_WORDS	4
#endif

struct htab_val {
	__u64 v[NR_WORDS];
};

/* every word of a value tells the key it belongs to, and which write it was */
#define HTAB_WORD(key, gen, i)	\
	(((__u64)(key) << 24) ^ ((__u64)(gen) << 4) ^ (i))

static __always_inline void fill(struct htab_val *val, __u64 key, __u64 gen)
{
	int i;

	for (i = 0; i < NR_WORDS; i++)
		val->v[i] = HTAB_WORD(key, gen, i);
}

/* a key that only the programs of one CPU write */
struct htab_slot {
	__u64 key;
	__u64 gen;	/* of the last write that succeeded, 0: deleted */
};

/* what the operations of one kind came to */
struct htab_count {
	__u64 tries;
	__u64 ok;
	__u64 busy;
	__u64 nomem;
	__u64 other;
};

#endif
