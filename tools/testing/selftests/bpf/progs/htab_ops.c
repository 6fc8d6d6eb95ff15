// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_ops.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WALK_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, WALK_ENTRIES);
	__type(key, __u64);
	__type(value, struct htab_val);
} percpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4);
	__type(key, __u64);
	__type(value, __u32);
} short_vals SEC(".maps");

struct locked_val {
	struct bpf_spin_lock lock;
	__u32 pad;
	__u64 v[LOCKED_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, NR_LOCKED);
	__type(key, __u64);
	__type(value, struct locked_val);
} locked SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, __u64);
	__type(value, __u64);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, NR_INNER);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} outer SEC(".maps") = {
	.values = { [0] = &inner },
};

/* set by user space */
__u64 first_key;
bool active;
bool slow;

/* results */
__u32 seen[NR_STABLE];
__u64 churned;
__u64 wrong;
__u64 ok;
__u64 nomem;
__u64 busy;
__u64 full;
__u64 other;
__u64 absent;
__u32 turn[MAX_CPUS];

static __always_inline int walk(__u64 *key, struct htab_val *val)
{
	int i;

	if (!key || !val)
		return 0;
	if (*key >= NR_STABLE) {
		churned++;
		/* long enough for the element to be used again */
		for (i = 0; i < 2000; i++)
			if (slow)
				turn[i & (MAX_CPUS - 1)]++;
		return 0;
	}
	seen[*key & (NR_STABLE - 1)]++;
	for (i = 0; i < NR_WORDS; i++)
		if (val->v[i] != HTAB_WORD(*key, 1, i))
			wrong++;
	return 0;
}

SEC("iter/bpf_map_elem")
int iter_hash(struct bpf_iter__bpf_map_elem *ctx)
{
	return walk(ctx->key, ctx->value);
}

/* the values of all CPUs lie one after the other */
SEC("iter/bpf_map_elem")
int iter_percpu_hash(struct bpf_iter__bpf_map_elem *ctx)
{
	return walk(ctx->key, ctx->value);
}

/* Add one to each word of a value, which must all be the same. */
static __always_inline void increment(__u64 key)
{
	struct locked_val *val = bpf_map_lookup_elem(&locked, &key);
	bool bad = false;
	__u64 word;
	int i;

	if (!val) {
		__sync_fetch_and_add(&absent, 1);
		return;
	}
	bpf_spin_lock(&val->lock);
	word = val->v[0];
	for (i = 0; i < LOCKED_WORDS; i++) {
		bad |= val->v[i] != word;
		val->v[i] = word + 1;
	}
	bpf_spin_unlock(&val->lock);
	if (bad)
		__sync_fetch_and_add(&wrong, 1);
	__sync_fetch_and_add(&ok, 1);
}

SEC("classifier")
int lock_stable(struct __sk_buff *skb)
{
	increment(0);
	return 0;
}

SEC("classifier")
int lock_reused(struct __sk_buff *skb)
{
	__u32 key;

	for (key = 1; key < NR_LOCKED; key++)
		increment(key);
	return 0;
}

/* Each inner map tells at key 0 that it is one; write to another key. */
SEC("classifier")
int write_inner(struct __sk_buff *skb)
{
	__u32 i, k, cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	__u64 zero = 0, key = cpu + 1, *val;
	void *map;

#pragma unroll
	for (i = 0; i < NR_INNER; i++) {
		k = i;
		map = bpf_map_lookup_elem(&outer, &k);
		if (!map) {
			__sync_fetch_and_add(&absent, 1);
			continue;
		}
		val = bpf_map_lookup_elem(map, &zero);
		if (!val || *val >> 8 != HTAB_WORD(1ULL, 1, 0))
			__sync_fetch_and_add(&wrong, 1);
		if (bpf_map_update_elem(map, &key, &key, BPF_ANY))
			__sync_fetch_and_add(&other, 1);
		else
			__sync_fetch_and_add(&ok, 1);
	}
	return 0;
}

/* Maps return an int: the upper half of what the helper returns is not set. */
static __always_inline void count(int err)
{
	if (!err)
		__sync_fetch_and_add(&ok, 1);
	else if (err == -E2BIG)
		__sync_fetch_and_add(&full, 1);
	else if (err == -ENOMEM)
		__sync_fetch_and_add(&nomem, 1);
	else if (err == -EBUSY)
		__sync_fetch_and_add(&busy, 1);
	else
		__sync_fetch_and_add(&other, 1);
}

/* Insert new keys, though the map may be full. */
static __always_inline int insert(void *map)
{
	__u32 cpu = bpf_get_smp_processor_id(), i;
	struct htab_val val;
	__u64 key;

	if (!active || cpu >= MAX_CPUS)
		return 0;
	for (i = 0; i < NMI_BURST; i++) {
		key = first_key + ((__u64)cpu << 20) + turn[cpu]++;
		fill(&val, key, 1);
		count(bpf_map_update_elem(map, &key, &val, BPF_NOEXIST));
	}
	return 0;
}

SEC("raw_tp/nmi_handler")
int nmi_hash(void *ctx)
{
	return insert(&hash);
}

SEC("raw_tp/nmi_handler")
int nmi_percpu_hash(void *ctx)
{
	return insert(&percpu_hash);
}

SEC("classifier")
int insert_hash(struct __sk_buff *skb)
{
	return insert(&hash);
}

SEC("classifier")
int insert_short(struct __sk_buff *skb)
{
	struct {
		__u32 val;
		__u32 behind;
	} v = { SHORT_VAL, ~SHORT_VAL };

	if (!bpf_map_update_elem(&short_vals, &first_key, &v.val, BPF_NOEXIST))
		ok++;
	return 0;
}

char _license[] SEC("license") = "GPL";
