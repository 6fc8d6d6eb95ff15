// SPDX-License-Identifier: GPL-2.0
/* A congestion control that creates and deletes storage of its socket */
#include "vmlinux.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>
#include "storage_alloc.h"

SEC("struct_ops/storage_init")
void BPF_PROG(storage_init, struct sock *sk)
{
	cycle(false, sk);
}

SEC("struct_ops/storage_ssthresh")
__u32 BPF_PROG(storage_ssthresh, struct sock *sk)
{
	return 2;
}

SEC("struct_ops/storage_cong_avoid")
void BPF_PROG(storage_cong_avoid, struct sock *sk, __u32 ack, __u32 acked)
{
}

SEC("struct_ops/storage_undo_cwnd")
__u32 BPF_PROG(storage_undo_cwnd, struct sock *sk)
{
	return 2;
}

SEC(".struct_ops")
struct tcp_congestion_ops storage_ca = {
	.init = (void *)storage_init,
	.ssthresh = (void *)storage_ssthresh,
	.cong_avoid = (void *)storage_cong_avoid,
	.undo_cwnd = (void *)storage_undo_cwnd,
	.name = "bpf_storage",
};

char _license[] SEC("license") = "GPL";
