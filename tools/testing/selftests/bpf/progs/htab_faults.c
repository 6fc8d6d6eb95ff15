// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "htab_faults.h"
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
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} outer SEC(".maps") = {
	.values = { [0] = &inner },
};

/* set by user space */
int napper;	/* the one task whose nanosleep() runs programs */

/* set by user space, but for the generation */
struct htab_slot slots[NR_TYPES][NR_CTX][MAX_CPUS][NR_KEYS];

/* results */
struct htab_count updates[NR_TYPES][NR_CTX];
struct htab_count deletes[NR_TYPES][NR_CTX];
__u64 kept;	/* values that outlived an update which met -ENOMEM */
__u64 absent;	/* runs without an inner map */

static __u32 steps[NR_TYPES][NR_CTX][MAX_CPUS];
static struct htab_val vals[NR_TYPES][NR_CTX][MAX_CPUS];

/* Write or delete the next key of this context on this CPU, which nobody else
 * does. What fails leaves the key as it was.
 */
static __always_inline void step(void *map, int type, int ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), nr;
	struct htab_slot *slot;
	struct htab_val *val;
	__u64 key;
	int err;

	if (cpu >= MAX_CPUS)
		return;
	nr = steps[type][ctx][cpu]++;
	slot = &slots[type][ctx][cpu][nr & (NR_KEYS - 1)];
	key = slot->key;

	/* all of them now and then, and not the same ones in each round */
	if (slot->gen && !((nr + nr / NR_KEYS) & 3)) {
		err = bpf_map_delete_elem(map, &key);
		if (!count(&deletes[type][ctx], err))
			slot->gen = 0;
	} else {
		val = &vals[type][ctx][cpu];
		fill(val, key, nr + 1);
		err = bpf_map_update_elem(map, &key, val,
					  slot->gen ? BPF_EXIST : BPF_NOEXIST);
		if (!count(&updates[type][ctx], err))
			slot->gen = nr + 1;
		else if (err == -ENOMEM && slot->gen)
			__sync_fetch_and_add(&kept, 1);
	}
	look(map, key, slot->gen);
}

static __always_inline void step_all(int ctx)
{
	__u32 zero = 0;
	void *map;

	step(&hash, TYPE_HASH, ctx);
	step(&percpu_hash, TYPE_PERCPU_HASH, ctx);
	map = bpf_map_lookup_elem(&outer, &zero);
	if (map)
		step(map, TYPE_HASH_OF_MAPS, ctx);
	else
		__sync_fetch_and_add(&absent, 1);
}

static __always_inline bool is_napper(void)
{
	return pid && (int)bpf_get_current_pid_tgid() == napper;
}

SEC("kprobe/sys_nanosleep")
int kprobe(void *ctx)
{
	if (is_napper())
		step_all(CTX_KPROBE);
	return 0;
}

/* __schedule() calls this one with interrupts off and the runqueue locked */
SEC("raw_tp/sched_switch")
int raw_tp_irqoff(void *ctx)
{
	if (test_task())
		step_all(CTX_RAW_TP_IRQOFF);
	return 0;
}

SEC("perf_event")
int perf(void *ctx)
{
	if (pid)
		step_all(CTX_PERF_EVENT);
	return 0;
}

SEC("raw_tp/nmi_handler")
int nmi(void *ctx)
{
	if (pid)
		step_all(CTX_NMI);
	return 0;
}

/* of a task that stays on its CPU */
SEC("fentry.s/__x64_sys_nanosleep")
int fentry_s(void *ctx)
{
	if (is_napper())
		step_all(CTX_FENTRY_S);
	return 0;
}

char _license[] SEC("license") = "GPL";
