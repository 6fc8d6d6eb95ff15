// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_common.h"
#include "htab_reentry.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, NR_BUCKETS);
	__type(key, __u64);
	__type(value, struct htab_val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, NR_BUCKETS);
	__type(key, __u64);
	__type(value, struct htab_val);
} percpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, MAX_CPUS);
	__type(key, __u64);
	__type(value, struct large_val);
} large_hash SEC(".maps");

/* set by user space */
bool active;
struct htab_slot slots[MAX_CPUS][SLOTS_PER_CPU];

/* results */
__u64 hits[MAX_FUNCS];
struct htab_count hot;
struct htab_count own;
struct htab_count run;

struct large_val large;

__u32 calls[MAX_CPUS];
__u32 depth[MAX_CPUS];
__u64 turn[MAX_CPUS];

/* Update a key that may just be being updated below this program, and one that
 * is nobody else's; delete the latter now and then.
 */
static __always_inline void nested(void *map, __u32 cpu)
{
	__u64 nr = ++turn[cpu], key = HOT_BASE + nr % NR_HOT;
	struct htab_slot *slot;
	struct htab_val val;

	fill(&val, key, 2);
	count(&hot, bpf_map_update_elem(map, &key, &val, BPF_ANY));

	slot = &slots[cpu][nr % SLOTS_PER_CPU];
	key = slot->key;
	fill(&val, key, nr);
	if (!count(&own, bpf_map_update_elem(map, &key, &val, BPF_ANY)))
		slot->gen = nr;
	if (nr & SLOTS_PER_CPU && slot->gen) {
		if (!count(&own, bpf_map_delete_elem(map, &key)))
			slot->gen = 0;
	}
	look(map, key, slot->gen);
}

/* Nothing else keeps these programs from being entered by their own updates.
 * They run in any task, for the functions are also called from workers.
 */
static __always_inline int nested_once(void *map, int func)
{
	__u32 cpu = bpf_get_smp_processor_id();

	if (!active || cpu >= MAX_CPUS || depth[cpu])
		return 0;
	depth[cpu] = 1;
	__sync_fetch_and_add(&hits[func], 1);
	nested(map, cpu);
	depth[cpu] = 0;
	return 0;
}

/* A set of programs for each type of map */
#define NAME(name)	hash_##name
#define MAP		(&hash)
#include "htab_reentry_progs.h"

#undef NAME
#undef MAP
#define NAME(name)	percpu_hash_##name
#define MAP		(&percpu_hash)
#include "htab_reentry_progs.h"

/* All that these do asks irq_work for something, and irq_work calls them. They
 * stop by themselves, so that the test ends in any case.
 */
static __always_inline bool endless_once(__u32 cpu)
{
	cpu &= MAX_CPUS - 1;
	return active && calls[cpu]++ < MAX_CALLS;
}

/* One is more than a CPU's list may keep. */
SEC("raw_tp/irq_work_exit")
int endless_large(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 key = cpu;

	if (endless_once(cpu))
		count(&own, bpf_map_update_elem(&large_hash, &key, &large,
						BPF_ANY));
	return 0;
}

/* So are all of these. */
SEC("raw_tp/irq_work_exit")
int endless_many(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u64 key, first = cpu * MANY_KEYS;
	struct htab_val val;
	int i;

	if (!endless_once(cpu))
		return 0;
	for (i = 0; i < MANY_KEYS; i++) {
		key = first + i;
		fill(&val, key, 1);
		count(&own, bpf_map_update_elem(&hash, &key, &val, BPF_ANY));
	}
	for (i = 0; i < MANY_KEYS; i++) {
		key = first + i;
		bpf_map_delete_elem(&hash, &key);
	}
	return 0;
}

char _license[] SEC("license") = "GPL";
