// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_common.h"
#include "htab_dynamic.h"
#include "test_task.h"

#define MAX_LOOP	512

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_ZERO_SEED);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct htab_val);
} dyn SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct htab_val);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} outer SEC(".maps") = {
	.values = { [0] = &inner },
};

/* set by user space; programs do nothing for other processes */
__u64 max_steps;
__u64 burst;
__u64 burst_first;
__u64 hot_key;
__u32 max_depth = 1;
struct htab_slot slots[NR_OWNERS][MAX_CPUS][SLOTS_PER_CPU];

/* results */
__u64 steps;
__u64 absent;	/* runs without an inner map */
__u64 hits;
__u64 deepest;
struct htab_count updates;
struct htab_count deletes;
struct htab_count hot[NR_OWNERS];
struct htab_count own[NR_OWNERS];

__u32 depth[MAX_CPUS];
__u64 turn[NR_OWNERS][MAX_CPUS];

/* Insert a key and replace it; delete it when it is odd. Look each time. */
static __always_inline void step(void *map, __u64 key)
{
	struct htab_val val;

	fill(&val, key, 1);
	count(&updates, bpf_map_update_elem(map, &key, &val, BPF_NOEXIST));
	look(map, key, 1);
	fill(&val, key, 2);
	count(&updates, bpf_map_update_elem(map, &key, &val, BPF_EXIST));
	look(map, key, 2);
	if (key & 1) {
		count(&deletes, bpf_map_delete_elem(map, &key));
		look(map, key, 0);
	}
}

static __always_inline int one_step(void *map)
{
	if (!test_task() || steps >= max_steps)
		return 0;
	step(map, steps++);
	return 0;
}

static __always_inline int inner_step(void)
{
	__u32 zero = 0;
	void *map;

	if (!test_task() || steps >= max_steps)
		return 0;
	map = bpf_map_lookup_elem(&outer, &zero);
	if (!map)
		absent++;
	else
		step(map, steps++);
	return 0;
}

/* For programs that interrupt an update of the very map: write the key that is
 * just being updated there, which may be refused, and then one that is nobody
 * else's.
 */
static __always_inline void nested(int owner, __u32 cpu)
{
	__u64 key = hot_key, nr = ++turn[owner][cpu];
	struct htab_slot *slot;
	struct htab_val val;

	fill(&val, key, 2);
	count(&hot[owner], bpf_map_update_elem(&dyn, &key, &val, BPF_ANY));

	slot = &slots[owner][cpu][nr % SLOTS_PER_CPU];
	key = slot->key;
	fill(&val, key, nr);
	if (!count(&own[owner], bpf_map_update_elem(&dyn, &key, &val, BPF_ANY)))
		slot->gen = nr;
	if (nr & SLOTS_PER_CPU && slot->gen) {
		if (!count(&own[owner], bpf_map_delete_elem(&dyn, &key)))
			slot->gen = 0;
	}
	look(&dyn, key, slot->gen);
}

/* Nothing else keeps an fentry program from its own updates. */
static __always_inline int nested_once(void)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);

	if (!test_task() || depth[cpu])
		return 0;
	depth[cpu] = 1;
	__sync_fetch_and_add(&hits, 1);
	nested(OWNER_LOW, cpu);
	depth[cpu] = 0;
	return 0;
}

SEC("kprobe/sys_nanosleep")
int step_kprobe(void *ctx)
{
	return one_step(&dyn);
}

/* __schedule() calls this one with interrupts off and the runqueue locked. */
SEC("raw_tp/sched_switch")
int step_irqoff(void *ctx)
{
	return one_step(&dyn);
}

SEC("perf_event")
int step_perf_event(void *ctx)
{
	return one_step(&dyn);
}

SEC("fentry.s/__x64_sys_nanosleep")
int BPF_PROG(step_fentry_s)
{
	return one_step(&dyn);
}

SEC("lsm.s/bprm_committed_creds")
int BPF_PROG(step_lsm_s, struct linux_binprm *bprm)
{
	int i;

	for (i = 0; i < STEPS_PER_EXEC; i++)
		one_step(&dyn);
	return 0;
}

SEC("raw_tp/sched_switch")
int inner_irqoff(void *ctx)
{
	return inner_step();
}

/* For inner maps that come and go, from all CPUs. */
static __always_inline int inner_any(void)
{
	__u32 zero = 0, cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	__u64 key, nr = ++turn[OWNER_LOW][cpu];
	struct htab_val val;
	void *map;

	if (!test_task())
		return 0;
	key = cpu * SLOTS_PER_CPU + nr % SLOTS_PER_CPU;
	map = bpf_map_lookup_elem(&outer, &zero);
	if (!map) {
		__sync_fetch_and_add(&absent, 1);
		return 0;
	}
	fill(&val, key, 1);
	count(&updates, bpf_map_update_elem(map, &key, &val, BPF_ANY));
	if (nr & SLOTS_PER_CPU)
		bpf_map_delete_elem(map, &key);
	return 0;
}

SEC("raw_tp/sched_switch")
int inner_any_irqoff(void *ctx)
{
	return inner_any();
}

SEC("raw_tp/sched_switch")
int burst_irqoff(void *ctx)
{
	__u64 i, key, nr = burst;
	struct htab_val val;

	if (!test_task() || !nr)
		return 0;
	burst = 0;
	for (i = 0; i < MAX_LOOP && i < nr; i++) {
		key = burst_first + i;
		fill(&val, key, 1);
		count(&updates, bpf_map_update_elem(&dyn, &key, &val,
						    BPF_NOEXIST));
	}
	return 0;
}

/* For BPF_PROG_TEST_RUN: write @nr times the @mask + 1 keys from @first on,
 * with interrupts off when it is run on another CPU.
 */
SEC("raw_tp/htab_dynamic_run")
int BPF_PROG(run, __u64 first, __u64 nr, __u64 mask)
{
	struct htab_val val;
	__u64 i, key;

	for (i = 0; i < MAX_LOOP && i < nr; i++) {
		key = first + (i & mask);
		fill(&val, key, 1);
		count(&updates, bpf_map_update_elem(&dyn, &key, &val, BPF_ANY));
	}
	return 0;
}

/* For BPF_PROG_TEST_RUN: the same, but delete. */
SEC("raw_tp/htab_dynamic_run")
int BPF_PROG(run_delete, __u64 first, __u64 nr, __u64 mask)
{
	__u64 i, key;

	for (i = 0; i < MAX_LOOP && i < nr; i++) {
		key = first + (i & mask);
		count(&deletes, bpf_map_delete_elem(&dyn, &key));
	}
	return 0;
}

/* user space chooses the function */
SEC("fentry/htab_map_update_elem")
int BPF_PROG(reenter)
{
	return nested_once();
}

/* Goes max_depth deep, with a bucket of its own at each level. */
SEC("fentry/htab_map_update_elem")
int BPF_PROG(reenter_deep)
{
	__u32 level, cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);
	struct htab_slot *slot;
	struct htab_val val;
	__u64 key;

	if (!test_task() || depth[cpu] >= max_depth)
		return 0;
	level = depth[cpu]++;
	if (level >= deepest)
		deepest = level + 1;
	slot = &slots[OWNER_LOW][level & (MAX_CPUS - 1)][0];
	key = slot->key;
	fill(&val, key, 1);
	if (!count(&own[OWNER_LOW], bpf_map_update_elem(&dyn, &key, &val, 0)))
		slot->gen = 1;
	depth[cpu]--;
	return 0;
}

SEC("perf_event")
int nested_perf_event(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);

	if (!test_task())
		return 0;
	__sync_fetch_and_add(&hits, 1);
	nested(OWNER_LOW, cpu);
	return 0;
}

/* user space chooses the instruction; int3 makes this an NMI */
SEC("kprobe/htab_map_update_elem")
int nested_kprobe(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);

	if (!test_task())
		return 0;
	__sync_fetch_and_add(&hits, 1);
	nested(OWNER_LOW, cpu);
	return 0;
}

static __always_inline int nested_in_nmi(void)
{
	__u32 cpu = bpf_get_smp_processor_id() & (MAX_CPUS - 1);

	if (!pid)
		return 0;
	__sync_fetch_and_add(&hits, 1);
	nested(OWNER_NMI, cpu);
	return 0;
}

SEC("raw_tp/nmi_handler")
int nmi_raw_tp(void *ctx)
{
	return nested_in_nmi();
}

SEC("fentry/nmi_cpu_backtrace_handler")
int BPF_PROG(nmi_fentry)
{
	return nested_in_nmi();
}

char _license[] SEC("license") = "GPL";
