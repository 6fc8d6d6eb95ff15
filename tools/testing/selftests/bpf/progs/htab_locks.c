// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_locks.h"
#include "test_task.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, struct htab_val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, struct htab_val);
} lru SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(map_flags, BPF_F_NO_COMMON_LRU);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, struct htab_val);
} lru_lists SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, struct htab_val);
} lru_percpu SEC(".maps");

struct locked_val {
	struct bpf_spin_lock lock;
	__u32 unused;
	struct htab_val val;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, struct locked_val);
} locked_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_ENTRIES);
	__type(key, __u32);
	__type(value, struct locked_val);
} locked_array SEC(".maps");

/* set by user space */
__u32 turn;
__u32 hot_key;
__u32 own_keys[NR_OWN];

/* results */
__u64 hits;
struct lock_count hot;
struct lock_count own;
__u64 wrong;
__u64 runs;

__u32 depth[MAX_CPUS];

/* Maps return an int: the upper half of what the helper returns is not set. */
static __always_inline int count(struct lock_count *c, int err)
{
	__sync_fetch_and_add(&c->tries, 1);
	if (!err)
		__sync_fetch_and_add(&c->ok, 1);
	else if (err == -EBUSY)
		__sync_fetch_and_add(&c->busy, 1);
	else
		c->other = err;
	return err;
}

static __always_inline bool enter(__u32 cpu)
{
	if (!test_task() || depth[cpu])
		return false;
	depth[cpu] = 1;
	hits++;
	return true;
}

/* Write the key that is just being written below, which may be refused, and
 * one that nobody else writes.
 */
static __always_inline int nested(void *map)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	__u32 key = hot_key;
	struct htab_val val;
	int err;

	if (!enter(cpu))
		return 0;
	fill(&val, key, 2);
	count(&hot, bpf_map_update_elem(map, &key, &val, BPF_ANY));
	key = own_keys[turn++ % NR_OWN];
	fill(&val, key, 1);
	count(&own, bpf_map_update_elem(map, &key, &val, BPF_ANY));
	if (turn & NR_OWN) {
		err = bpf_map_delete_elem(map, &key);
		if (err != -ENOENT)
			count(&own, err);
	}
	depth[cpu] = 0;
	return 0;
}

static __always_inline int nested_locked(void *map)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	struct locked_val val = {};
	__u32 key = hot_key;

	if (!enter(cpu))
		return 0;
	fill(&val.val, key, 2);
	count(&hot, bpf_map_update_elem(map, &key, &val, BPF_F_LOCK));
	key = own_keys[turn++ % NR_OWN];
	fill(&val.val, key, 1);
	count(&own, bpf_map_update_elem(map, &key, &val, BPF_F_LOCK));
	depth[cpu] = 0;
	return 0;
}

/* Called for each kprobe that is hit, whose int3 makes it an NMI. A kprobe
 * program would not run within a map operation of a syscall.
 */
#define NESTED(func, map)				\
SEC("fentry/kprobe_int3_handler")			\
int BPF_PROG(nested_##map)				\
{							\
	return func(&(map));				\
}

NESTED(nested, hash)
NESTED(nested, lru)
NESTED(nested, lru_lists)
NESTED(nested, lru_percpu)
NESTED(nested_locked, locked_hash)
NESTED(nested_locked, locked_array)

/* Have the element of the hot key be used for another one, if its bucket is not
 * locked, before an update of the hot key with BPF_F_LOCK gets to it.
 */
static __always_inline int reuse(void)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	struct locked_val val = {};
	__u32 key = hot_key;

	if (hits || !enter(cpu))
		return 0;
	count(&hot, bpf_map_delete_elem(&locked_hash, &key));
	key = own_keys[0];
	fill(&val.val, key, 1);
	count(&own, bpf_map_update_elem(&locked_hash, &key, &val, BPF_ANY));
	depth[cpu] = 0;
	return 0;
}

SEC("fentry/copy_map_value_locked")
int BPF_PROG(reuse_early)
{
	return reuse();
}

SEC("fentry/__copy_map_value_locked")
int BPF_PROG(reuse_late)
{
	return reuse();
}

SEC("fentry/nmi_cpu_backtrace_handler")
int BPF_PROG(nmi_locked_hash)
{
	struct locked_val val = {};
	__u32 key = hot_key;

	if (!pid)
		return 0;
	__sync_fetch_and_add(&hits, 1);
	fill(&val.val, key, 2);
	count(&hot, bpf_map_update_elem(&locked_hash, &key, &val, BPF_F_LOCK));
	key = own_keys[bpf_get_smp_processor_id() % NR_OWN];
	fill(&val.val, key, 1);
	count(&own, bpf_map_update_elem(&locked_hash, &key, &val, BPF_F_LOCK));
	return 0;
}

/* Holds the lock of the hot key as long as a program can. */
SEC("classifier/hold")
int hold(struct __sk_buff *skb)
{
	struct locked_val *val;
	__u32 key = hot_key;
	__u64 v0, v1, v2;
	int i;

	val = bpf_map_lookup_elem(&locked_hash, &key);
	if (!val)
		return 0;
	bpf_spin_lock(&val->lock);
	v0 = val->val.v[0];
	for (i = 0; i < 2000; i++)
		asm volatile("" : "+r"(i));	/* takes its time */
	v1 = val->val.v[1];
	v2 = val->val.v[2];
	bpf_spin_unlock(&val->lock);
	if ((v0 ^ v1) != 1 || (v0 ^ v2) != 2)
		__sync_fetch_and_add(&wrong, 1);
	__sync_fetch_and_add(&runs, 1);
	return 0;
}

char _license[] SEC("license") = "GPL";
