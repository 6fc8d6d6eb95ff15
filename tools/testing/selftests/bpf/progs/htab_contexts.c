// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_contexts.h"
#include "htab_common.h"
#include "test_task.h"

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

struct inner_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, NR_BUCKETS);
	__type(key, __u64);
	__type(value, struct htab_val);
} inner1 SEC(".maps"), inner2 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} outer SEC(".maps") = {
	.values = { [0] = &inner1 },
};

/* set by user space */
__u64 keys[MAX_CPUS][MAX_STEPS];

/* results */
__u32 steps[MAX_CPUS];
__u64 absent;	/* runs without an inner map */
__u64 spent;	/* runs with interrupts off that met -ENOMEM */
struct htab_count updates;
struct htab_count deletes;

/* Insert this CPU's next key and replace it, delete every other one. Look each
 * time. The program stays on its CPU, and nothing but itself runs this there.
 * With interrupts off it may find the reserve spent: then try again next time.
 */
static __always_inline void step(void *map, bool irqoff)
{
	__u32 cpu = bpf_get_smp_processor_id(), nr;
	struct htab_val val;
	int err, err2;
	__u64 key;

	if (cpu >= MAX_CPUS)
		return;
	nr = steps[cpu];
	if (nr >= MAX_STEPS)
		return;
	key = keys[cpu][nr & (MAX_STEPS - 1)];

	fill(&val, key, 1);
	err = bpf_map_update_elem(map, &key, &val, BPF_NOEXIST);
	if (irqoff && err == -ENOMEM)
		goto spent;
	look(map, key, 1);
	fill(&val, key, 2);
	err2 = bpf_map_update_elem(map, &key, &val, BPF_EXIST);
	if (irqoff && err2 == -ENOMEM) {
		look(map, key, 1);
		bpf_map_delete_elem(map, &key);
		goto spent;
	}
	look(map, key, 2);
	count(&updates, err);
	count(&updates, err2);
	if (nr & 1) {
		count(&deletes, bpf_map_delete_elem(map, &key));
		look(map, key, 0);
	}
	steps[cpu]++;
	return;
spent:
	__sync_fetch_and_add(&spent, 1);
}

/* A sleepable program may change CPU between any two calls: this CPU's value of
 * a per-CPU map may not be the one it wrote. So it writes each key only once.
 * User space runs no two of them at a time.
 */
static __always_inline void step_once(void *map)
{
	__u32 nr = steps[0];
	struct htab_val val;
	__u64 key;

	if (nr >= MAX_STEPS)
		return;
	steps[0] = nr + 1;
	key = keys[0][nr & (MAX_STEPS - 1)];

	fill(&val, key, 2);
	count(&updates, bpf_map_update_elem(map, &key, &val, BPF_NOEXIST));
	if (nr & 1)
		count(&deletes, bpf_map_delete_elem(map, &key));
}

static __always_inline void step_inner(bool irqoff)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&outer, &zero);

	if (map)
		step(map, irqoff);
	else
		__sync_fetch_and_add(&absent, 1);
}

static __always_inline void step_inner_once(void)
{
	__u32 zero = 0;
	void *map = bpf_map_lookup_elem(&outer, &zero);

	if (map)
		step_once(map);
	else
		__sync_fetch_and_add(&absent, 1);
}

/* A set of programs for each type of map */
#define NAME(name)	hash_##name
#define STEP(irqoff)	step(&hash, irqoff)
#define STEP_ONCE()	step_once(&hash)
#include "htab_contexts_progs.h"

#undef NAME
#undef STEP
#undef STEP_ONCE
#define NAME(name)	percpu_hash_##name
#define STEP(irqoff)	step(&percpu_hash, irqoff)
#define STEP_ONCE()	step_once(&percpu_hash)
#include "htab_contexts_progs.h"

#undef NAME
#undef STEP
#undef STEP_ONCE
#define NAME(name)	hash_of_maps_##name
#define STEP(irqoff)	step_inner(irqoff)
#define STEP_ONCE()	step_inner_once()
#include "htab_contexts_progs.h"

char _license[] SEC("license") = "GPL";
