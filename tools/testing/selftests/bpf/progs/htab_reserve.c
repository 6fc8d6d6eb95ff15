// SPDX-License-Identifier: GPL-2.0
#include "vmlinux.h"
#include <errno.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "test_task.h"

#define MAX_BURST 512

/* elements of 64 bytes */
struct val {
	__u64 v[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, struct val);
} hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8192);
	__type(key, __u64);
	__type(value, __u64);
} percpu SEC(".maps");

/* set by user space */
__u64 first_key;
__u32 burst;
__u64 hold_ptr;	/* as long for 32-bit user space */

/* results */
__u32 done;
__u32 nr_ok;
__u32 nr_nomem;
__u32 nr_other;
__u32 held;

static __always_inline void add_keys(void *map)
{
	struct val val = {};
	__u32 i, n = burst;
	__u64 key;
	int err;

	if (!test_task() || !n)
		return;
	burst = 0;
	for (i = 0; i < MAX_BURST; i++) {
		if (i >= n)
			break;
		key = first_key + i;
		val.v[0] = key;
		err = bpf_map_update_elem(map, &key, &val, BPF_NOEXIST);
		if (!err)
			nr_ok++;
		else if (err == -ENOMEM)
			nr_nomem++;
		else
			nr_other++;
	}
	done++;
}

/* interrupts are off here, and a runqueue is locked */
SEC("raw_tp/sched_switch")
int burst_hash(void *ctx)
{
	add_keys(&hash);
	return 0;
}

SEC("raw_tp/sched_switch")
int burst_percpu(void *ctx)
{
	add_keys(&percpu);
	return 0;
}

/* Stays in a page fault for as long as user space wants */
SEC("fentry.s/__x64_sys_getpgid")
int BPF_PROG(hold)
{
	__u64 key = 0, buf;

	if (!test_task() || !hold_ptr)
		return 0;
	bpf_map_lookup_elem(&hash, &key);
	held = 1;
	bpf_copy_from_user(&buf, sizeof(buf), (void *)hold_ptr);
	held = 2;
	return 0;
}

char _license[] SEC("license") = "GPL";
