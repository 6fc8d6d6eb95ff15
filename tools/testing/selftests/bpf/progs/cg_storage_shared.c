// SPDX-License-Identifier: GPL-2.0
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "cg_storage_shared.h"

/* The key says that all programs of a cgroup share it. */
struct {
	__uint(type, BPF_MAP_TYPE_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct shared_value);
} shared SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE);
	__type(key, __u64);
	__type(value, struct shared_value);
} percpu SEC(".maps");

__u32 wrote, seen, seen_percpu;

SEC("cgroup/setsockopt")
int write_storage(struct bpf_sockopt *ctx)
{
	__u32 *optval = ctx->optval;
	struct shared_value *val;

	if (ctx->level != SHARED_LEVEL)
		return 1;
	if ((void *)(optval + 1) > ctx->optval_end)
		return 0;
	val = bpf_get_local_storage(&shared, 0);
	val->number = *optval;
	val = bpf_get_local_storage(&percpu, 0);
	val->number = 2 * *optval;
	wrote++;
	/* not for the kernel */
	ctx->optlen = -1;
	return 1;
}

SEC("cgroup/connect4")
int read_storage(struct bpf_sock_addr *ctx)
{
	struct shared_value *val;

	val = bpf_get_local_storage(&shared, 0);
	seen = val->number;
	val = bpf_get_local_storage(&percpu, 0);
	seen_percpu = val->number;
	return 1;
}

char _license[] SEC("license") = "GPL";
