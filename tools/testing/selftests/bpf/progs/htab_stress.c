// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "test_task.h"

#define MAX_BURST	512
#define NR_INNER	8

/* elements of 64 bytes */
struct val {
	__u64 v[4];
};

struct inner {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__uint(key_size, sizeof(__u64));
	__uint(value_size, sizeof(struct val));
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, NR_INNER);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = {},
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1 << 20);
	__type(key, __u64);
	__type(value, struct val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u64);
	__type(value, struct val);
} burst_hash SEC(".maps");

/* set by user space */
__u32 burst;
__u64 first_key;
int all_on_cpu = -1;
__u32 per_switch;

/* results */
__u64 hits;
__u32 died;
__u32 done;
__u32 nr_ok;
__u32 nr_nomem;
__u32 nr_other;
__u32 nr_found;

static __always_inline void count(int err)
{
	if (!err)
		__sync_fetch_and_add(&nr_ok, 1);
	else if (err == -ENOMEM)
		__sync_fetch_and_add(&nr_nomem, 1);
	else
		__sync_fetch_and_add(&nr_other, 1);
}

static __always_inline void add_new(void *map, __u32 n)
{
	struct val val = {};
	__u64 key;
	__u32 i;

	for (i = 0; i < MAX_BURST; i++) {
		if (i >= n)
			break;
		key = first_key++; /* by one CPU at a time */
		val.v[0] = key;
		count(bpf_map_update_elem(map, &key, &val, BPF_NOEXIST));
	}
}

/* New keys in the test's own task, @burst of them once, and on one CPU in all
 * tasks, @per_switch each time. Interrupts are off, and a runqueue is locked.
 */
SEC("raw_tp/sched_switch")
int add_keys(void *ctx)
{
	if (test_task() && burst) {
		__u32 n = burst;

		burst = 0;
		add_new(&burst_hash, n);
		done++;
	} else if (all_on_cpu == (int)bpf_get_smp_processor_id()) {
		add_new(&hash, per_switch);
		__sync_fetch_and_add(&hits, 1);
	}
	return 0;
}

/* On a CPU that goes down, when it has run its irq_work for the last time. It
 * counts as offline then, where tracepoints call nobody any more.
 */
SEC("kprobe/sched_cpu_dying")
int add_dying(void *ctx)
{
	if (all_on_cpu != (int)bpf_get_smp_processor_id())
		return 0;
	add_new(&hash, per_switch);
	died++;
	return 0;
}

/* Maps that come and go meanwhile, in each of which the caller's @key is */
static __always_inline void use_inner_maps(__u64 key)
{
	struct val val = { .v = { key, key, key, key } }, *found;
	__u32 i, slot;
	void *map;

	/* a counter whose address is taken, the verifier does not follow */
	for (i = 0; i < NR_INNER; i++) {
		slot = i;
		map = bpf_map_lookup_elem(&outer, &slot);
		if (!map)
			continue;
		__sync_fetch_and_add(&hits, 1);
		count(bpf_map_update_elem(map, &key, &val, BPF_ANY));
		found = bpf_map_lookup_elem(map, &key);
		if (found)
			__sync_fetch_and_add(&nr_found, 1);
		/* or else it goes with the map */
		if (i & 1)
			bpf_map_delete_elem(map, &key);
	}
}

SEC("raw_tp/sched_switch")
int use_maps(void *ctx)
{
	use_inner_maps(1ULL << 32 | bpf_get_smp_processor_id());
	return 0;
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(use_maps_sleepable)
{
	if (test_task())
		/* it may be on another CPU next */
		use_inner_maps(2ULL << 32 | (__u32)bpf_get_current_pid_tgid());
	return 0;
}

char _license[] SEC("license") = "GPL";
