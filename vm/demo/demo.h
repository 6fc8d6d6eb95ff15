/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef DEMO_H
#define DEMO_H

struct value {
	__u64 v[4];
};

/* Each word of a value tells its key and which write it was. */
#define WORD(key, gen, i)	(((key) << 24) ^ ((__u64)(gen) << 2) ^ (i))

#define MAX_CPUS	64	/* power of two */
#define HOT_KEY		0x100000000ULL
#define OWN_KEY		0x200000000ULL	/* + CPU * OWN_KEYS + 0.. */
#define OWN_KEYS	64	/* power of two */
#define MAX_BURST	64

struct tally {
	__u64 tried;
	__u64 ok;
	__u64 busy;
	__u64 nomem;
	__u64 other;
};

#define SPEED_KEYS	64

#endif
