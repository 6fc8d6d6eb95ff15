/* SPDX-License-Identifier: GPL-2.0 */
/* Storage that programs of all types create, find and delete */
#ifndef __STORAGE_ALLOC_H
#define __STORAGE_ALLOC_H

/* As in ../prog_tests/storage_alloc.c */
#define WORDS	100
#define SK_WORDS	8	/* objects of this size are used again */
#define ROUNDS	4

struct value {
	__u64 words[WORDS];
};

struct sk_value {
	__u64 words[SK_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct sk_value);
} sk_map SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_INODE_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct value);
} inode_map SEC(".maps");

/* results */
__u32 runs;	/* of a program that got all it should */
__u32 fails;
__u32 dirty;	/* values that were not zero at first */

static __always_inline void touch(__u64 *words, __u32 nr)
{
	__u32 i;

	for (i = 0; i < nr; i++) {
		if (words[i])
			dirty++;
		words[i] = -1;
	}
}

static __always_inline __u64 *get(bool inode, void *owner, __u64 flags)
{
	if (inode)
		return bpf_inode_storage_get(&inode_map, owner, 0, flags);
	return bpf_sk_storage_get(&sk_map, owner, 0, flags);
}

static __always_inline int del(bool inode, void *owner)
{
	if (inode)
		return bpf_inode_storage_delete(&inode_map, owner);
	return bpf_sk_storage_delete(&sk_map, owner);
}

/* Create, find, delete, and not find any more */
static __always_inline void cycle(bool inode, void *owner)
{
	__u32 i, bad = 0;
	__u64 *v;

	for (i = 0; i < ROUNDS; i++) {
		v = get(inode, owner, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (!v) {
			bad++;
			break;
		}
		touch(v, inode ? WORDS : SK_WORDS);
		v = get(inode, owner, 0);
		if (!v || *v != -1)
			bad++;
		if (del(inode, owner))
			bad++;
		if (get(inode, owner, 0))
			bad++;
	}
	fails += bad;
	runs += !bad;
}

static __always_inline void cycle_sk(struct bpf_sock *sk)
{
	if (sk)
		cycle(false, sk);
}

#endif
