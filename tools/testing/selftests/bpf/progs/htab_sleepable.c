// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "test_task.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} percpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} lru_percpu_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, __u64);
} percpu_array SEC(".maps");

struct inner_map {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u64);
} inner SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} outer_hash SEC(".maps") = {
	.values = { [0] = &inner },
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
	__array(values, struct inner_map);
} outer_array SEC(".maps") = {
	.values = { [0] = &inner },
};

/* set by user space */
__u32 slot;
__u64 hold_ptr;	/* as long for 32-bit user space */

/* results */
__u32 steps;
__u32 fails;
__u32 held;	/* 1: in the page fault, 2: after it */
__u64 value_before;
__u64 value_after;

/* bpf_get_smp_processor_id() would tell nothing: the program may move */
static __always_inline int step_percpu(void *map)
{
	__u32 key = steps;
	__u64 val = key + 1;

	if (!test_task())
		return 0;
	steps++;
	if (bpf_map_update_elem(map, &key, &val, BPF_ANY) ||
	    !bpf_map_lookup_elem(map, &key))
		fails++;
	return 0;
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(step_percpu_hash)
{
	return step_percpu(&percpu_hash);
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(step_lru_percpu_hash)
{
	return step_percpu(&lru_percpu_hash);
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(step_percpu_array)
{
	return step_percpu(&percpu_array);
}

static __always_inline int step_outer(void *outer)
{
	__u32 key = steps, zero = 0;
	__u64 val = key + 1, *found;
	void *map;

	if (!test_task())
		return 0;
	steps++;
	map = bpf_map_lookup_elem(outer, &zero);
	if (!map) {
		fails++;
		return 0;
	}
	if (bpf_map_update_elem(map, &key, &val, BPF_ANY))
		fails++;
	found = bpf_map_lookup_elem(map, &key);
	if (!found || *found != val)
		fails++;
	return 0;
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(step_outer_hash)
{
	return step_outer(&outer_hash);
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(step_outer_array)
{
	return step_outer(&outer_array);
}

/* Stays in a page fault with an element at hand. */
static __always_inline int hold(void *outer)
{
	__u64 buf, *val;
	__u32 key = 0;
	void *map;

	if (!test_task() || !hold_ptr)
		return 0;
	key = slot;
	map = bpf_map_lookup_elem(outer, &key);
	if (!map)
		return 0;
	key = 0;
	val = bpf_map_lookup_elem(map, &key);
	if (!val)
		return 0;
	value_before = *val;
	held = 1;
	bpf_copy_from_user(&buf, sizeof(buf), (void *)hold_ptr);
	value_after = *val;
	held = 2;
	return 0;
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(hold_outer_hash)
{
	return hold(&outer_hash);
}

SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(hold_outer_array)
{
	return hold(&outer_array);
}

char _license[] SEC("license") = "GPL";
